"""What happens to everything a detection carries beside box, score and class, when the detections of several views are merged.

A model gives its detections in pixels of the original image whatever the size of its input, so only mirrored views are left to be
turned back. A model with fields of its own names them in an attribute::

    class MyDetector(nn.Module):
        tta_fields = {
            "pred_extreme_points": Averaged(mirror_points((0, 3, 2, 1))),  # top, left, bottom, right: left and right change places
            "pred_masks": Derived(masks_of_contours),
        }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from .merging import Merged

__all__ = [
    "Averaged",
    "Derived",
    "FieldRule",
    "Followed",
    "Mirror",
    "ScoredPoints",
    "field_rules",
    "mirror_boxes",
    "mirror_masks",
    "mirror_points",
    "standard_fields",
]

#: Turns the values (N, ...) of a mirrored image of a width in pixels into those of the image.
Mirror = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Averaged:
    """Coordinates: where boxes are averaged, they are too, with the same weights."""

    mirror: Mirror

    def merge(self, values: Tensor, merged: Merged) -> Tensor:
        """Of all detections (N, ...) to those of the remaining ones (M, ...)."""
        return merged.average(values)


@dataclass(frozen=True)
class ScoredPoints(Averaged):
    """Points (N, V, 3) whose third number is the score of their detection: x and y are averaged, the score is that of the merged one."""

    def merge(self, values: Tensor, merged: Merged) -> Tensor:
        """Of all detections (N, V, 3) to those of the remaining ones (M, V, 3)."""
        points = super().merge(values, merged)
        points[..., 2] = merged.scores[:, None].to(points.dtype)
        return points


@dataclass(frozen=True)
class Followed:
    """What cannot be averaged: the value of the best detection of an object stays with its box."""

    mirror: Mirror

    def merge(self, values: Tensor, merged: Merged) -> Tensor:
        """Of all detections (N, ...) to those of the remaining ones (M, ...)."""
        return values[merged.source]


@dataclass(frozen=True)
class Derived:
    """What follows from the other fields: left out before merging and computed from the merged detections."""

    compute: Callable[[Instances], Tensor]


FieldRule = Averaged | Followed | Derived


def mirror_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (N, 4), xyxy in pixels."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def mirror_points(permutation: Sequence[int] | None = None) -> Mirror:
    """For points (N, V, 2 or more): x and y in pixels, then what mirroring leaves alone (a score, visibility).

    Args:
        permutation: point i of an object is point ``permutation[i]`` of the mirrored object; None: all stay what they are.
    """

    def mirror(points: Tensor, width: int) -> Tensor:
        turned = points.clone() if permutation is None else points[:, list(permutation)]
        turned[..., 0] = width - turned[..., 0]
        return turned

    return mirror


def mirror_masks(masks: Tensor, width: int) -> Tensor:
    """Masks (N, H, W) of the whole image."""
    return masks.flip(-1)


def standard_fields(keypoint_permutation: Sequence[int] | None = None) -> dict[str, FieldRule]:
    """Detectron2's masks, and its keypoints where it is known how mirroring permutes them."""
    return field_rules({}, keypoint_permutation)


def field_rules(own: Mapping[str, FieldRule | type[Averaged]], keypoint_permutation: Sequence[int] | None = None) -> dict[str, FieldRule]:
    """The standard rules and those of a model, which come first.

    Args:
        own: by the names of the fields. A class in the place of a rule is for keypoints, which mirror as the dataset says; without
            the permutation it is left out.
        keypoint_permutation: keypoint i is keypoint ``keypoint_permutation[i]`` of the mirrored object; None: not known.
    """
    rules: dict[str, FieldRule] = {}
    for name, rule in {"pred_masks": Followed(mirror_masks), "pred_keypoints": Averaged, **own}.items():
        if not isinstance(rule, type):
            rules[name] = rule
        elif keypoint_permutation is not None:
            rules[name] = rule(mirror_points(keypoint_permutation))
    return rules
