"""A small situation with everything that matters to a weighting: overlap, one class twice, a tiny object, an image without objects."""

from __future__ import annotations

from dataclasses import replace

import torch

from detkit.assigners import AssignContext, SoftAssignment
from detkit.geometry import Grid, Priors, square_anchors
from detkit.structures import GroundTruth, Predictions

NUM_CLASSES = 3
STRIDES = (8, 16, 32)
#: per image boxes and classes; the second and third object of the first image overlap and share a class, the fourth holds no location
OBJECTS = [
    ([[10, 20, 60, 70], [30, 30, 90, 92], [32, 28, 88, 90], [41, 41, 43, 43]], [0, 1, 1, 2]),
    ([], []),
    ([[4, 8, 100, 60]], [2]),
]


def make_priors() -> Priors:
    """252 locations on 96x128 pixels."""
    sizes = tuple((96 // stride, 128 // stride) for stride in STRIDES)
    return Priors(Grid(sizes, STRIDES, 0.5, torch.device("cpu")), square_anchors(STRIDES))


def make_gt(objects: list[tuple[list[list[float]], list[int]]] = OBJECTS) -> GroundTruth:
    """Padded objects."""
    most = max(len(classes) for _, classes in objects)
    gt = GroundTruth(
        torch.zeros(len(objects), most, 4),
        torch.zeros(len(objects), most, dtype=torch.int64),
        torch.zeros(len(objects), most, dtype=torch.bool),
    )
    for image, (boxes, classes) in enumerate(objects):
        gt.boxes[image, : len(boxes)] = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        gt.classes[image, : len(boxes)] = torch.tensor(classes, dtype=torch.int64)
        gt.valid[image, : len(boxes)] = True
    return gt


def make_context(objects: list[tuple[list[list[float]], list[int]]] = OBJECTS, *, seed: int = 0, quality: bool = True) -> AssignContext:
    """Objects, priors, and predictions that require gradient: every prior predicts about one of its image's objects."""
    gt, priors = make_gt(objects), make_priors()
    rng = torch.Generator().manual_seed(seed)
    batch, num_gts = gt.valid.shape
    boxes = priors.boxes.expand(batch, -1, -1)
    if num_gts:
        chosen = torch.randint(0, num_gts, (batch, priors.num_priors), generator=rng)
        boxes = gt.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    boxes = boxes + 6 * torch.randn(boxes.shape, generator=rng)
    boxes = torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)], dim=-1)
    logits = 1.5 * torch.randn(batch, priors.num_priors, NUM_CLASSES, generator=rng) - 1
    predictions = Predictions(
        logits.requires_grad_(),
        boxes.requires_grad_(),
        torch.randn(batch, priors.num_priors, generator=rng).requires_grad_() if quality else None,
    )
    return AssignContext(gt, priors, predictions)


def dense_scores(predictions: Predictions) -> torch.Tensor:
    """(B, P, K) scores that the detector ranks by."""
    scores = predictions.logits.sigmoid()
    return scores if predictions.quality is None else scores * predictions.quality.sigmoid()[..., None]


def without_losers(result: SoftAssignment) -> SoftAssignment:
    """Without the pairs that lost their prior to another object, which are listed with weights of zero."""
    wins = result.counts_negative
    assert wins is not None and not result.positive_weight[~wins].any() and not result.box_weight[~wins].any()
    weights = {name: getattr(result, name)[wins] for name in ("positive_weight", "negative_weight", "box_weight", "counts_negative")}
    return replace(result, pairs=result.pairs.select(wins), values=result.values.select(wins), **weights)
