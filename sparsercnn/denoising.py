"""Denoising queries: noised ground-truth boxes as extra proposals while training."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.structures import GroundTruth

__all__ = ["Denoising"]


class Denoising:
    """Makes extra proposals out of the ground truth (Li et al., *DN-DETR*, section 4.3): boxes with noise, from which every stage learns to
    regress the boxes they were made from. Their targets are known without matching, so that they give every stage positives from the first
    iteration on. They exist in training only and add no weights.

    Differences from DN-DETR: only boxes are learned, since all queries are positives and would teach the classes no background; and the
    features are those of the learned proposals in turn, since a proposal of Sparse R-CNN is a box and a feature, not an embedded class.

    Args:
        copies: groups of queries, each with one query per object. Groups do not attend to each other.
        noise: the largest shift of a center in half widths and heights of the box, and the largest relative change of width and height,
            in [0, 1); both are uniformly distributed (0.4 in DN-DETR).
        weight: factor of the losses.
    """

    def __init__(self, *, copies: int, noise: float = 0.4, weight: float = 1.0) -> None:
        if copies < 1 or not 0 <= noise < 1:
            raise ValueError(f"copies is {copies} and noise is {noise}; they have to be at least 1 and in [0, 1).")
        self.copies = copies
        self.noise = noise
        self.weight = weight

    def objects(self, gt: GroundTruth) -> GroundTruth:
        """The objects of B images, repeated for their B * copies groups, image by image."""
        boxes, classes, valid = (each.repeat_interleave(self.copies, 0) for each in (gt.boxes, gt.classes, gt.valid))
        return GroundTruth(boxes, classes, valid)

    def boxes(self, objects: GroundTruth) -> Tensor:
        """Noised boxes (M, G, 4), xyxy in pixels, of the ``objects`` of M groups; zeros where padded."""
        low, high = objects.boxes.chunk(2, dim=-1)
        sizes = high - low
        shift, scale = self.noise * (2 * torch.rand(2, *sizes.shape, device=sizes.device) - 1)
        center, half = (low + high) / 2 + shift * sizes / 2, sizes * (1 + scale) / 2
        return torch.cat([center - half, center + half], dim=-1)

    def features(self, learned: Tensor | None, objects: GroundTruth) -> Tensor | None:
        """Features (M, G, C) of the queries: those of the learned proposals (N, C) in turn, object by object; None where there are none."""
        if learned is None:
            return None
        groups, count = objects.valid.shape
        index = torch.arange(self.copies * count, device=learned.device).view(count, self.copies).T % len(learned)
        return learned[index].repeat(groups // self.copies, 1, 1)

    def seen(self, objects: GroundTruth) -> Tensor:
        """(M, G) bool, queries that the others of their group attend to: all but those of padding, so that an image with few objects
        learns the same beside one with many. In a group without objects, which learns nothing, all."""
        return objects.valid | ~objects.valid.any(1, keepdim=True)

    def assignments(self, objects: GroundTruth, num_stages: int) -> Tensor:
        """The object (S, M, G) of each query at every stage, -1 where padded."""
        own = torch.arange(objects.valid.shape[1], device=objects.valid.device)
        return torch.where(objects.valid, own, -1).expand(num_stages, -1, -1)
