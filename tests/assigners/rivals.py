"""The weightings that DW is compared with, as plain loops over images, objects and locations in Python's own numbers.

Nothing here is shared with the code under test but the inputs: candidates, overlaps, losses and the plan are all computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from detkit.assigners import AssignContext

Box = list[float]


class Candidate(NamedTuple):
    """A location inside an object, and what is predicted there.

    ``prior`` and ``gt_index`` are flat over the batch, ``offset`` is the way from the object's center in x and y, in strides.
    """

    prior: int
    gt_index: int
    level: int
    score: float
    iou: float
    giou_loss: float
    offset: tuple[float, float]


def candidates(context: AssignContext) -> dict[int, list[Candidate]]:
    """By object, in the order of the locations. Objects that hold no location have none."""
    gt, priors, predictions = context.gt, context.priors, context.predictions
    points, strides, per_level = priors.points.tolist(), priors.strides.tolist(), priors.per_level
    levels = [level for level, count in enumerate(per_level) for _ in range(count)]
    found: dict[int, list[Candidate]] = {}
    for image in range(gt.valid.shape[0]):
        logits, boxes = predictions.logits[image].tolist(), predictions.boxes[image].tolist()
        qualities = None if predictions.quality is None else predictions.quality[image].tolist()
        for index in range(gt.valid.shape[1]):
            if not gt.valid[image, index]:
                continue
            x0, y0, x1, y1 = box = gt.boxes[image, index].tolist()
            label, gt_index = int(gt.classes[image, index]), image * gt.valid.shape[1] + index
            for prior, (x, y) in enumerate(points):
                if not (x0 < x < x1 and y0 < y < y1):
                    continue
                score = sigmoid(logits[prior][label]) * (1.0 if qualities is None else sigmoid(qualities[prior]))
                offset = ((x - (x0 + x1) / 2) / strides[prior], (y - (y0 + y1) / 2) / strides[prior])
                overlap, loss = iou(boxes[prior], box), 1 - giou(boxes[prior], box)
                found.setdefault(gt_index, []).append(
                    Candidate(image * len(points) + prior, gt_index, levels[prior], score, overlap, loss, offset)
                )
    return found


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def intersection(a: Box, b: Box) -> float:
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def iou(a: Box, b: Box) -> float:
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared)


def giou(a: Box, b: Box) -> float:
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - intersection(a, b)
    return iou(a, b) - (hull - union) / hull


def focal_difference(score: float) -> float:
    """Focal loss of a score as a positive minus that as a negative."""
    return 0.25 * (1 - score) ** 2 * -math.log(score) - 0.75 * score**2 * -math.log(1 - score)


def paa(context: AssignContext, *, topk: int, box_factor: float, iterations: int) -> dict[int, int]:
    """The object (flat) of every positive location (flat)."""
    winners: dict[int, tuple[float, int]] = {}
    for gt_index, bag in candidates(context).items():
        losses = {c: focal_difference(c.score) + box_factor * c.giou_loss for c in bag}
        best = [c for level in {c.level for c in bag} for c in sorted((c for c in bag if c.level == level), key=losses.__getitem__)[:topk]]
        best.sort(key=losses.__getitem__)
        for candidate, positive in zip(best, low_component([losses[c] for c in best], iterations), strict=True):
            if positive:
                claim = (losses[candidate], gt_index)
                winners[candidate.prior] = min(winners.get(candidate.prior, claim), claim)
    return {prior: gt_index for prior, (_, gt_index) in winners.items()}


def low_component(costs: list[float], iterations: int) -> list[bool]:
    """Which of rising costs belong to the lower of two Gaussians and do not lie beyond the densest of these."""
    if len(costs) == 1:
        return [True]
    means, variances, shares = [costs[0], costs[-1]], [1.0, 1.0], [0.5, 0.5]

    def densities() -> list[list[float]]:
        return [
            [p * math.exp(-((x - m) ** 2) / (2 * s)) / math.sqrt(s) for m, s, p in zip(means, variances, shares, strict=True)]
            for x in costs
        ]

    for _ in range(iterations):
        memberships = [[d / sum(row) for d in row] for row in densities()]
        for k in (0, 1):
            total = sum(row[k] for row in memberships)
            means[k] = sum(row[k] * x for row, x in zip(memberships, costs, strict=True)) / total
            variances[k] = sum(row[k] * (x - means[k]) ** 2 for row, x in zip(memberships, costs, strict=True)) / total + 1e-6
            shares[k] = total / len(costs)
    low = [row[0] >= row[1] for row in densities()]
    peak = max(((sum(row), -i) for i, row in enumerate(densities()) if low[i]), default=(0.0, 0))
    return [is_low and i <= -peak[1] for i, is_low in enumerate(low)]


def ota(
    context: AssignContext, *, topk: int, iou_weight: float, center_radius: float, epsilon: float, iterations: int, off_center: float
) -> dict[int, int]:
    """The object (flat) of every positive location (flat)."""
    num_gts, num_priors = context.gt.valid.shape[1], context.priors.num_priors
    winners: dict[int, int] = {}
    for image in range(len(context.gt.boxes)):
        bags = {gt_index: bag for gt_index, bag in candidates(context).items() if gt_index // num_gts == image}
        places = sorted({c.prior for bag in bags.values() for c in bag})
        assert all(place // num_priors == image for place in places)
        supplies = {gt_index: max(int(sum(sorted((c.iou for c in bag), reverse=True)[:topk])), 1) for gt_index, bag in bags.items()}
        kernel: dict[tuple[int, int], float] = {}
        for gt_index, bag in bags.items():
            for c in bag:
                cost = focal_difference(c.score) + iou_weight * -math.log(max(c.iou, 1e-8))
                is_off_center = max(map(abs, c.offset)) >= center_radius
                kernel[gt_index, c.prior] = -(cost + (off_center if is_off_center else 0.0)) / epsilon
        winners |= _transport(kernel, supplies, places, max(len(places) - sum(supplies.values()), 1e-3), iterations)
    return winners


def _transport(
    kernel: dict[tuple[int, int], float], supplies: dict[int, int], places: list[int], rest: float, iterations: int
) -> dict[int, int]:
    """Sinkhorn's iteration in logarithms with the background, whose kernel is 0, as one more source; then each place goes to the source
    that gives it most, as a share of the most that the source gives anywhere."""
    of_source = dict.fromkeys([*supplies, -1], 0.0)
    for place in places:
        kernel[-1, place] = 0.0
    log_supply = {source: math.log(amount) for source, amount in [*supplies.items(), (-1, rest)]}
    places_of = {source: [place for place in places if (source, place) in kernel] for source in of_source}
    sources_of = {place: [source for source in of_source if (source, place) in kernel] for place in places}
    of_place: dict[int, float] = {}
    for _ in range(iterations):
        of_place = {p: -logsumexp([kernel[s, p] + of_source[s] for s in sources_of[p]]) for p in places}
        of_source = {s: log_supply[s] - logsumexp([kernel[s, p] + of_place[p] for p in places_of[s]]) for s in of_source if places_of[s]}
    plan = {(s, p): kernel[s, p] + of_source[s] + of_place[p] for s, p in kernel}
    most = {s: max(plan[s, p] for p in places_of[s]) for s in of_source}
    chosen = {p: max(sources_of[p], key=lambda s: (plan[s, p] - most[s], s == -1, -s)) for p in places}
    return {place: source for place, source in chosen.items() if source >= 0}


def logsumexp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


class Weights(NamedTuple):
    """Of one pair: target of the score, and the weight of the box before its factor."""

    target: float
    box: float


def task_aligned(context: AssignContext, *, topk: int, alpha: float, beta: float) -> dict[tuple[int, int], Weights]:
    """By location and object (both flat): each object's ``topk`` best aligned; a location goes to the object with the highest IoU."""
    claims: dict[int, tuple[float, int, float]] = {}
    for gt_index, bag in candidates(context).items():
        metric = {c: c.score**alpha * c.iou**beta for c in bag}
        for c in sorted(bag, key=lambda c: -metric[c])[:topk]:
            claim = (c.iou, -gt_index, metric[c])
            claims[c.prior] = max(claims.get(c.prior, claim), claim)
    scaled: dict[tuple[int, int], Weights] = {}
    for gt_index in {-negative for _, negative, _ in claims.values()}:
        mine = {prior: (overlap, metric) for prior, (overlap, negative, metric) in claims.items() if negative == -gt_index}
        factor = max(overlap for overlap, _ in mine.values()) / max(metric for _, metric in mine.values())
        scaled |= {(prior, gt_index): Weights(metric * factor, metric * factor) for prior, (_, metric) in mine.items()}
    return scaled


def musu(context: AssignContext, *, lean: float, sharpness: float) -> dict[tuple[int, int], Weights]:
    """By location and object (both flat), of all candidates."""

    def agreement(leading: Callable[[Candidate], float], following: Callable[[Candidate], float], bag: list[Candidate]) -> list[float]:
        raw = [(leading(c) ** (1 - lean) * following(c) ** lean) ** sharpness for c in bag]
        return [value / max(raw) * max(c.iou for c in bag) for value in raw]

    found: dict[tuple[int, int], Weights] = {}
    for gt_index, bag in candidates(context).items():
        targets = agreement(lambda c: c.iou, lambda c: c.score, bag)
        boxes = agreement(lambda c: c.score, lambda c: c.iou, bag)
        found |= {(c.prior, gt_index): Weights(t, b) for c, t, b in zip(bag, targets, boxes, strict=True)}
    return found


class BagWeights(NamedTuple):
    """Of one pair, as AutoAssign has them."""

    positive: float
    negative: float
    center: float


def autoassign(context: AssignContext, *, sharpness: float, box_sharpness: float) -> dict[tuple[int, int], BagWeights]:
    """By location and object (both flat), with center priors of width 1 (AutoAssign, equations 4 to 7)."""
    found: dict[tuple[int, int], BagWeights] = {}
    for gt_index, bag in candidates(context).items():
        centers = [math.exp(-(c.offset[0] ** 2 + c.offset[1] ** 2) / 2) for c in bag]
        raw = [math.exp(sharpness * c.score * math.exp(-box_sharpness * c.giou_loss)) * p for c, p in zip(bag, centers, strict=True)]
        steep = [1 / (1 - c.iou) for c in bag]
        negatives = [1 - (value - min(steep)) / (max(steep) - min(steep)) for value in steep]
        rows = zip(bag, raw, negatives, centers, strict=True)
        found |= {(c.prior, gt_index): BagWeights(value / sum(raw), negative, center) for c, value, negative, center in rows}
    return found
