"""LSNet's losses against plain loops over images, stages, sets of landmarks and positives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.testing import assert_close

from lsnet.cross_iou import from_cross_coordinates

from .test_detector import batch_of, options
from .test_whole import model_of


def test_equal_components_point_up_and_left() -> None:
    vectors = torch.tensor([[2.0, 2.0, 3.0, 3.0], [1.0, 2.0, 5.0, 5.0]])
    assert_close(from_cross_coordinates(vectors), torch.tensor([[-3.0, -2.0], [-5.0, 2.0]]))


def scene(*changes: Any, task: str = "bbox") -> tuple[Any, Any, Any, list[tuple[int, int]]]:
    """A model, its raw outputs, the objects (one extreme point of which is unknown) and the sizes of the images, which differ."""
    model = model_of(task, *options(*changes)).train()
    batch = [*batch_of(), batch_of((128, 160))[0], batch_of()[0]]
    batch[3]["instances"] = batch[3]["instances"][:0]
    images = model.preprocess_image(batch)
    gt = model.ground_truth([item["instances"] for item in batch])
    if task == "bbox":
        gt.landmarks[0, 1, 2, 2] = 0
    return model, model.predict(images), gt, images.image_sizes


def softened(offset: Tensor, alpha: float = 0.2) -> list[float]:
    """Up, down, left, right of an offset x, y."""
    x, y = offset.tolist()
    up_down = [alpha * y, y] if y >= 0 else [-y, -alpha * y]
    return up_down + ([alpha * x, x] if x >= 0 else [-x, -alpha * x])


def ciou_penalties(pred: list[float], target: list[float], overlap: float) -> float:
    """Distance of the centers and difference of the aspect ratios of two boxes."""
    hull = [max(pred[i + 2], target[i + 2]) - min(pred[i], target[i]) for i in (0, 1)]
    between = sum(((pred[i] + pred[i + 2] - target[i] - target[i + 2]) / 2) ** 2 for i in (0, 1))
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1] + 1e-6)) for box in (target, pred)]
    difference = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    distance = between / (sum(max(side, 0.0) ** 2 for side in hull) + 1e-6)
    return distance + difference**2 / max(1 - overlap + difference, 1e-6)


def position(vector: list[float]) -> tuple[float, float]:
    up, down, left, right = vector
    return (right if right > left else -left), (down if down > up else -up)


def pair_loss(vectors: Tensor, point: Tensor, stride: float, gt: Any, image: int, index: int, *, smooth: bool) -> float:
    """Of one positive: cross-IoU of all vectors together with the penalties of its box, or smooth L1, in units of four strides."""
    box, landmarks = gt.boxes[image, index], gt.landmarks[image, index]
    goals = [*landmarks[:, :2], (box[:2] + box[2:]) / 2]
    known = [*(landmarks[:, 2] > 0).tolist(), True]
    unit = 4 * stride
    target = [softened((goal - point) / unit) for goal in goals]
    pred = (vectors.view(-1, 4) / 4).tolist()
    if smooth:
        beta, total = 1 / 9, 0.0
        for p, t, is_known in zip(pred, target, known, strict=True):
            gaps = [abs(a - b) for a, b in zip(p, t, strict=True)]
            total += is_known * sum(gap**2 / (2 * beta) if gap < beta else gap - beta / 2 for gap in gaps)
        return total / sum(known)
    smaller = sum(min(a, b) for p, t, is_known in zip(pred, target, known, strict=True) if is_known for a, b in zip(p, t, strict=True))
    larger = sum(max(a, b) for p, t in zip(pred, target, strict=True) for a, b in zip(p, t, strict=True))
    top, left, bottom, right = (position(vector) for vector in pred[:4])
    true_box = ((box - point.repeat(2)) / unit).tolist()
    return 1 - smaller / larger + ciou_penalties([left[0], top[1], right[0], bottom[1]], true_box, smaller / larger)


@pytest.mark.parametrize("vector", ["cross_iou", "smooth_l1"])
def test_losses_of_boxes_are_those_of_loops(vector: str) -> None:
    model, outputs, gt, sizes = scene("LOSS.VECTOR", vector, "LOSS.INIT_WEIGHT", 0.7, "HEAD.START_SIZE", 3.0)
    losses = model.losses(outputs, gt, sizes)
    predictions, priors = model.pipeline.decode(outputs)
    stages = model.stages(outputs, predictions, priors, gt, sizes)
    for name, weight, stage in (("init", 0.7, stages[0]), ("refine", 2.0, stages[1])):
        total, norm = 0.0, 0
        for image, labels in enumerate(stage.assignment.gt_index.tolist()):
            positives = [(prior, index) for prior, index in enumerate(labels) if index >= 0]
            norm += max(len(positives), 1)
            for prior, index in positives:
                vectors, point, stride = stage.vectors["bbox"][image, :, prior], priors.points[prior], float(priors.strides[prior])
                total += pair_loss(vectors.detach(), point, stride, gt, image, index, smooth=vector == "smooth_l1")
        assert norm > 5
        assert_close(losses[f"loss_bbox_{name}"].item(), weight * total / norm, rtol=2e-4, atol=1e-6)
    labels, ignore = stages[1].assignment.gt_index, stages[1].assignment.ignore
    one_hot = torch.zeros_like(predictions.logits)
    for image, prior in (labels >= 0).nonzero().tolist():
        one_hot[image, prior, gt.classes[image, labels[image, prior]]] = 1
    assert ignore.any()
    expected = sigmoid_focal_loss(predictions.logits, one_hot, alpha=0.25, gamma=2)[~ignore].sum() / norm
    assert_close(losses["loss_cls"], expected)


def test_boxes_beside_a_pose_count_by_their_factor() -> None:
    factors = []
    for factor in (0.1, 0.4):
        model, outputs, gt, sizes = scene("LOSS.BOX_FACTOR", factor, "NUM_KEYPOINTS", 4, task="pose")
        factors.append({name: float(loss) for name, loss in model.losses(outputs, gt, sizes).items()})
    low, high = factors
    assert {name for name in low if high[name] == pytest.approx(4 * low[name])} == {"loss_bbox_init", "loss_bbox_refine"}
    assert all(high[name] == pytest.approx(low[name]) for name in low if "bbox" not in name)


def test_the_second_stage_refines_the_vectors_of_the_first_which_it_does_not_train() -> None:
    model, outputs, _, _ = scene("HEAD.FEATURES", "point")
    sum(x.sum() for x in outputs.refine["bbox"]).backward()
    first = [p.grad for p in model.head.init.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in first)
    assert any(p.grad.any() for p in model.head.refine.parameters())


def test_boxes_for_the_assigner_are_those_of_the_first_stage() -> None:
    model, outputs, _, _ = scene("HEAD.START_SIZE", 3.0)
    predictions, priors = model.pipeline.decode(outputs)
    assert not predictions.boxes.requires_grad and predictions.logits.requires_grad
    start = 0
    for level, maps in enumerate(outputs.init["bbox"]):
        row, column, stride = 1, 2, (8, 16, 32)[level]
        prior = start + row * maps.shape[3] + column
        top, left, bottom, right = (position(vector) for vector in maps[0, :, row, column].view(-1, 4)[:4].tolist())
        x, y = column * stride, row * stride
        expected = [x + left[0] * stride, y + top[1] * stride, x + right[0] * stride, y + bottom[1] * stride]
        assert_close(predictions.boxes[0, prior], torch.tensor(expected), rtol=1e-4, atol=1e-3)
        assert priors.points[prior].tolist() == [x, y]
        start += maps.shape[2] * maps.shape[3]


def test_small_detections_are_left_out() -> None:
    model = model_of("bbox", *options("TEST.SCORE_THRESH", 0.0, "HEAD.START_SIZE", 3.0)).eval()
    with torch.no_grad():
        areas = model(batch_of()[:1])[0]["instances"].pred_boxes.area()
        model.min_area = float(areas.median())
        kept = model(batch_of()[:1])[0]["instances"].pred_boxes.area()
    assert 0 < len(kept) < len(areas)
    assert_close(kept.sort().values, areas[areas > model.min_area].sort().values)
