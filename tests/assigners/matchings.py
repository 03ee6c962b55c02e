"""One-to-one assignment, and the many-to-one assignment beside it, as plain loops in Python's own numbers, on the candidates of
:mod:`tests.assigners.rivals`."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

from detkit.assigners import AssignContext
from tests.assigners.rivals import Candidate, candidates, focal_difference

#: by object and location (both flat), what a pair is worth
Values = dict[tuple[int, int], float]


def greedy(values: Values) -> dict[int, int]:
    """The location of every object: the best pair of all, then the best one of what is left. Of equal ones the first goes first."""
    found: dict[int, int] = {}
    for gt_index, prior in sorted(values, key=lambda pair: -values[pair]):
        if gt_index not in found and prior not in found.values():
            found[gt_index] = prior
    return found


def best_sum(values: Values) -> tuple[int, float]:
    """How many objects can have a location of their own, and the highest sum of values among the ways to give so many one: all ways are
    tried."""
    places = {gt_index: [prior for other, prior in values if other == gt_index] for gt_index, _ in values}
    ways = itertools.product(*([*priors, None] for priors in places.values()))
    best = (0, 0.0)
    for way in ways:
        taken = [prior for prior in way if prior is not None]
        if len(set(taken)) == len(taken):
            total = sum(values[gt_index, prior] for gt_index, prior in zip(places, way, strict=True) if prior is not None)
            best = max(best, (len(taken), total))
    return best


def values_of(context: AssignContext, value: Callable[[Candidate], float], *, radius: float = math.inf) -> Values:
    """Of all candidates nearer to the center than a radius in strides, on both axes."""
    bags = candidates(context).items()
    return {(gt_index, c.prior): value(c) for gt_index, bag in bags for c in bag if max(map(abs, c.offset)) < radius}


def quality(alpha: float) -> Callable[[Candidate], float]:
    return lambda c: c.score ** (1 - alpha) * c.iou**alpha


def minus_cost(context: AssignContext, class_weight: float, l1_weight: float, giou_weight: float) -> Values:
    """OneNet's cost of every candidate, negative."""
    num_gts, num_priors = context.gt.valid.shape[1], context.priors.num_priors
    found = {}
    for gt_index, bag in candidates(context).items():
        image = gt_index // num_gts
        height, width = context.image_sizes[image].tolist()
        box = context.gt.boxes[image, gt_index % num_gts].tolist()
        for c in bag:
            predicted = context.predictions.boxes[image, c.prior % num_priors].tolist()
            distance = sum(abs(a - b) / size for a, b, size in zip(predicted, box, (width, height, width, height), strict=True))
            cost = class_weight * focal_difference(c.score) + l1_weight * distance - giou_weight * (1 - c.giou_loss)
            found[gt_index, c.prior] = -cost
    return found


def quality_atss(context: AssignContext, *, topk: int, alpha: float) -> dict[int, int]:
    """The object (flat) of every positive location (flat)."""
    winners: dict[int, tuple[float, int]] = {}
    for gt_index, bag in candidates(context).items():
        chosen = []
        for level in {c.level for c in bag}:
            on_level = [(quality(alpha)(c), c.prior) for c in bag if c.level == level]
            chosen += sorted(on_level, key=lambda row: -row[0])[:topk]
        qualities = [value for value, _ in chosen]
        threshold = statistics.mean(qualities) + (statistics.stdev(qualities) if len(qualities) > 1 else 0.0)
        for value, prior in chosen:
            if value >= threshold:
                winners[prior] = max(winners.get(prior, (-1.0, 0)), (value, -gt_index))
    return {prior: -negative for prior, (_, negative) in winners.items()}
