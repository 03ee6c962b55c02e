"""Pictures of what a dense detector's assigner picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.evaluation.evaluator import inference_context
from matplotlib.colors import to_rgba
from PIL import Image
from torch import Tensor

from detkit.assigners import Assignment
from detkit.assigners.soft import hard_pairs
from detkit.dense import DenseDetector
from detkit.geometry import Priors
from detkit.structures import GroundTruth, HardAssignment

from .pictures import RGBImage, canvas
from .style import CATEGORICAL

__all__ = ["AssignmentPicture", "assignment_pictures"]


@dataclass(frozen=True)
class AssignmentPicture:
    """The positives of one image.

    Args:
        by_object: the image in gray with its boxes and its positive locations, colored by object, larger on coarser levels.
        by_level: the same, colored by level of the pyramid, see :attr:`level_names`.
        per_level: number of positives on each level.
        per_object: number of positives of each object.
        level_names: e.g. ("p3", "p4", ...).
    """

    by_object: RGBImage
    by_level: RGBImage
    per_level: tuple[int, ...]
    per_object: tuple[int, ...]
    level_names: tuple[str, ...]


@dataclass(frozen=True)
class _Positives:
    """The M positive pairs of one image: locations (M, 2) in pixels, objects, levels, weights in [0, 1] (M,)."""

    points: Tensor
    objects: Tensor
    levels: Tensor
    weights: Tensor


@torch.no_grad()
def assignment_pictures(
    model: DenseDetector, batched_inputs: Sequence[dict[str, Any]], *, channels: str = "BGR"
) -> list[AssignmentPicture]:
    """Runs the model's own assigner on a batch and draws its positives.

    Args:
        model: on any device; its mode and statistics are left as they are.
        batched_inputs: as for training, with ``image`` (3, H, W) in [0, 255] and ``instances`` with ``gt_boxes`` and ``gt_classes``.
        channels: their order in ``image``, ``cfg.INPUT.FORMAT``: "BGR" or "RGB".

    Returns:
        one picture per image, in the network's input size before padding.
    """
    with inference_context(model):
        images = model.preprocess_image(list(batched_inputs))
        predictions, priors = model.pipeline.decode(model.predict(images))
        gt = model.ground_truth([inputs["instances"].to(images.tensor.device) for inputs in batched_inputs])
        assignment = model.pipeline.assign(priors, gt, predictions, images.image_sizes)
    names = tuple(model.head_in_features)
    return [
        _draw(_to_gray(inputs["image"], channels), inputs["instances"].gt_boxes.tensor, positives, names)
        for inputs, positives in zip(batched_inputs, _positives(assignment, gt, priors), strict=True)
    ]


def _positives(assignment: Assignment, gt: GroundTruth, priors: Priors) -> list[_Positives]:
    if isinstance(assignment, HardAssignment):
        pairs = hard_pairs(assignment, gt)
        weights = torch.ones_like(pairs.gt_index, dtype=torch.float32)
    else:
        pairs, weights = assignment.pairs, assignment.positive_weight
    num_images, num_gts = gt.classes.shape
    images = []
    for i in range(num_images):
        picked = (pairs.prior_index // priors.num_priors == i) & (weights > 0)
        index, weight = pairs.prior_index[picked] % priors.num_priors, weights[picked]
        levels = priors.levels_of(index)
        strength = weight / weight.amax().clamp(min=1e-12) if len(weight) else weight
        objects = pairs.gt_index[picked] % max(num_gts, 1)
        images.append(_Positives(priors.points[index].cpu(), objects.cpu(), levels.cpu(), strength.cpu()))
    return images


def _draw(image: RGBImage, boxes: Tensor, positives: _Positives, level_names: tuple[str, ...]) -> AssignmentPicture:
    return AssignmentPicture(
        by_object=_draw_points(image, boxes, positives, positives.objects, box_colors=CATEGORICAL),
        by_level=_draw_points(image, boxes, positives, positives.levels, box_colors=("#ffffff",)),
        per_level=tuple(torch.bincount(positives.levels, minlength=len(level_names)).tolist()),
        per_object=tuple(torch.bincount(positives.objects, minlength=len(boxes)).tolist()),
        level_names=level_names,
    )


def _draw_points(image: RGBImage, boxes: Tensor, positives: _Positives, groups: Tensor, *, box_colors: tuple[str, ...]) -> RGBImage:
    visualizer = canvas(image)
    axes = visualizer.output.ax
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), autoscale_on=False)
    for number, box in enumerate(boxes.tolist()):
        visualizer.draw_box(box, alpha=0.9, edge_color=box_colors[number % len(box_colors)])
    weights = positives.weights.clamp(min=0.15).tolist()
    axes.scatter(
        *positives.points.T.numpy(),
        c=[to_rgba(CATEGORICAL[group % len(CATEGORICAL)], weight) for group, weight in zip(groups.tolist(), weights, strict=True)],
        s=(4.5 + 2.0 * positives.levels.numpy()) ** 2,
        edgecolors="black",
        linewidths=0.9,
        zorder=5,
    )
    return visualizer.output.get_image()


def _to_gray(image: Tensor, channels: str) -> RGBImage:
    """(H, W, 3) without color, on which that of the points is easy to see."""
    if channels not in ("BGR", "RGB"):
        raise ValueError(f"Pictures can be drawn of images in BGR or RGB order, not '{channels}'.")
    rgb = image.flip(0) if channels == "BGR" else image
    pixels = rgb.permute(1, 2, 0).to(torch.uint8).contiguous().cpu().numpy()
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
