"""The assignment rules written as plain loops over images, objects and priors: slow, obvious, and the truth for the tests.

Pixel arithmetic is float32, operation by operation as the published codes do it; comparisons of distances and of IoU statistics are
exact, in fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch

from detkit.assigners import AssignContext
from detkit.structures import HardAssignment

F32 = np.float32


class Prior(NamedTuple):
    level: int
    stride: np.float32
    point: tuple[np.float32, np.float32]
    box: tuple[np.float32, ...]
    takes_part: bool


def priors_of(context: AssignContext, image: int) -> list[Prior]:
    """Every prior of an image, in the project's order: levels, rows, columns, anchors."""
    priors, grid = [], context.priors.grid
    for level, ((height, width), stride) in enumerate(zip(grid.sizes, grid.strides, strict=True)):
        rows, columns = height, width
        if context.valid_sizes is not None:
            rows, columns = context.valid_sizes[image, level].tolist()
        for row in range(height):
            for column in range(width):
                x, y = (F32(F32(cell) + F32(grid.offset)) * F32(stride) for cell in (column, row))
                for anchor in context.priors.cell_anchors[level].numpy():
                    box = (x + anchor[0], y + anchor[1], x + anchor[2], y + anchor[3])
                    priors.append(Prior(level, F32(stride), (x, y), box, row < rows and column < columns))
    return priors


def objects_of(context: AssignContext, image: int) -> dict[int, np.ndarray]:
    """Box by index of the objects of an image that are no padding."""
    boxes, valid = context.gt.boxes[image].numpy(), context.gt.valid[image].tolist()
    return {index: boxes[index] for index, real in enumerate(valid) if real}


def area_of(box: Sequence[np.float32], plus_one: float) -> np.float32:
    width, height = (max(box[i + 2] - box[i] + F32(plus_one), F32(0)) for i in (0, 1))
    return width * height


def iou_of(box1: Sequence[np.float32], box2: Sequence[np.float32], plus_one: float) -> np.float32:
    overlaps = (max(min(box1[i + 2], box2[i + 2]) - max(box1[i], box2[i]) + F32(plus_one), F32(0)) for i in (0, 1))
    intersection = np.prod(list(overlaps), dtype=F32)
    union = area_of(box1, plus_one) + area_of(box2, plus_one) - intersection
    return intersection / union if union > 0 else F32(0)


def as_assignment(gt_index: list[list[int]], ignore: list[list[bool]]) -> HardAssignment:
    return HardAssignment(torch.tensor(gt_index), torch.tensor(ignore))


def fcos(context: AssignContext, sizes: Sequence[float], radius: float, inclusive: bool = True) -> HardAssignment:
    """A point goes to the smallest of the objects that contain it in the range of its level; equal areas: the lowest index."""
    bounds = [F32(-1), *map(F32, sizes), F32("inf")]
    gt_index, ignore = [], []
    for image in range(len(context.gt.boxes)):
        objects = objects_of(context, image)
        areas = {index: area_of(box, context.priors.plus_one) for index, box in objects.items()}
        priors = priors_of(context, image)
        row = []
        for prior in priors:
            low, high = bounds[prior.level], bounds[prior.level + 1]
            claims = [
                (areas[index], index)
                for index, box in objects.items()
                if prior.takes_part and fcos_positive(prior, box, (low, high), F32(radius) * prior.stride, inclusive)
            ]
            row.append(min(claims)[1] if claims else -1)
        gt_index.append(row)
        ignore.append([not prior.takes_part for prior in priors])
    return as_assignment(gt_index, ignore)


def fcos_positive(prior: Prior, box: np.ndarray, bounds: tuple[np.float32, np.float32], reach: np.float32, inclusive: bool) -> bool:
    (x, y), (x0, y0, x1, y1) = prior.point, box
    farthest = max(x - x0, y - y0, x1 - x, y1 - y)
    if min(x - x0, y - y0, x1 - x, y1 - y) <= 0:
        return False
    if reach:
        center_x, center_y = (x0 + x1) / F32(2), (y0 + y1) / F32(2)
        if not (center_x - reach < x < center_x + reach and center_y - reach < y < center_y + reach):
            return False
    low, high = bounds
    return bool(low <= farthest <= high) if inclusive else bool(low < farthest < high)


def atss(context: AssignContext, k: int) -> HardAssignment:
    """Algorithm 1 of the ATSS paper with the authors' details: unbiased deviation, center inside by more than 0.01."""
    gt_index, ignore = [], []
    for image in range(len(context.gt.boxes)):
        priors = priors_of(context, image)
        best = [(F32(-1), 1)] * len(priors)  # IoU, -gt index
        for index, box in objects_of(context, image).items():
            candidates = nearest_candidates(context, priors, box, k)
            ious = {i: iou_of(priors[i].box, box, context.priors.plus_one) for i in candidates}
            for i in stand_out(ious):
                if center_is_inside(priors[i].box, box):
                    best[i] = max(best[i], (ious[i], -index))
        gt_index.append([-negative for _, negative in best])
        ignore.append([not prior.takes_part for prior in priors])
    return as_assignment(gt_index, ignore)


def nearest_candidates(context: AssignContext, priors: list[Prior], box: np.ndarray, k: int) -> list[int]:
    """Priors on the k points of each level nearest to the box center, exactly; equally near points by index."""
    per_point = context.priors.anchors_per_point
    center = [Fraction(float((box[i] + box[i + 2]) / F32(2))) for i in (0, 1)]
    chosen = []
    for level in range(context.priors.grid.num_levels):
        points = [i for i in range(0, len(priors), per_point) if priors[i].level == level and priors[i].takes_part]
        distance = {i: sum((Fraction(float(p)) - c) ** 2 for p, c in zip(priors[i].point, center, strict=True)) for i in points}
        nearest = sorted((distance[i], i) for i in points)[:k]
        chosen += [i + anchor for _, i in nearest for anchor in range(per_point)]
    return chosen


def stand_out(ious: dict[int, np.float32]) -> list[int]:
    """Keys with IoU >= mean + unbiased standard deviation; ``iou - mean >= deviation`` is compared squared, so exactly."""
    exact = {i: Fraction(float(iou)) for i, iou in ious.items()}
    if not exact:
        return []
    mean = sum(exact.values()) / len(exact)
    variance = sum((iou - mean) ** 2 for iou in exact.values()) / max(len(exact) - 1, 1)
    return [i for i, iou in exact.items() if iou >= mean and (iou - mean) ** 2 >= variance]


def center_is_inside(box: Sequence[np.float32], gt_box: np.ndarray) -> bool:
    x, y = ((box[i] + box[i + 2]) / F32(2) for i in (0, 1))
    return bool(min(x - gt_box[0], y - gt_box[1], gt_box[2] - x, gt_box[3] - y) > F32(0.01))


def iou(
    context: AssignContext,
    thresholds: tuple[float, float],
    allow_low_quality: bool,
    low_quality_from: float = 0.0,
    only_center_inside: bool = False,
) -> HardAssignment:
    """RetinaNet's rule: an anchor goes to the object it overlaps most, by threshold or as that of some object's best anchors."""
    low, high = map(F32, thresholds)
    gt_index, ignore = [], []
    for image in range(len(context.gt.boxes)):
        priors, objects = priors_of(context, image), objects_of(context, image)
        ious = {
            index: [iou_of(prior.box, box, context.priors.plus_one) if prior.takes_part else F32(-1) for prior in priors]
            for index, box in objects.items()
        }
        row, ignored = [], []
        for i, prior in enumerate(priors):
            best, negative = max(((ious[index][i], -index) for index in objects), default=(F32(-1), 0))
            wanted = any(ious[index][i] == max(ious[index]) > 0 and ious[index][i] >= F32(low_quality_from) for index in objects)
            positive = best >= high or (allow_low_quality and wanted)
            outside = positive and only_center_inside and not center_is_inside(prior.box, objects[-negative])
            row.append(-negative if positive and not outside else -1)
            ignored.append(not prior.takes_part or outside or (not positive and best >= low))
        gt_index.append(row)
        ignore.append(ignored)
    return as_assignment(gt_index, ignore)
