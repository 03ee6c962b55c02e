"""Matching of predictions with objects: SciPy problem by problem is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from scipy.optimize import linear_sum_assignment

from detkit.assigners import AssignContext, HungarianAssigner, NonFiniteCostError, build_assigner
from detkit.assigners.costs import focal_class_cost, giou_cost, l1_cost, softmax_class_cost
from detkit.assigners.matching import match
from detkit.config import get_cfg
from detkit.structures import GroundTruth, Predictions
from tests.toys.detectors import random_inputs, tiny_cfg


def random_problems(seed: int, shape: tuple[int, int, int], counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    valid = torch.arange(shape[2])[None] < torch.tensor(counts)[:, None]
    return torch.randn(shape, generator=rng), valid


@pytest.mark.parametrize(
    ("shape", "counts"),
    [((4, 20, 7), [7, 0, 3, 1]), ((3, 5, 9), [9, 5, 2]), ((1, 1, 1), [1]), ((1, 100, 1000), [1000]), ((2, 300, 60), [60, 17])],
)
def test_each_problem_as_scipy_alone(shape: tuple[int, int, int], counts: list[int]) -> None:
    costs, valid = random_problems(0, shape, counts)
    gt_index = match(costs.masked_fill(~valid[:, None], float("nan")), valid)  # padding may hold anything
    for problem, count in enumerate(counts):
        rows, columns = linear_sum_assignment(costs[problem, :, :count].numpy())
        expected = np.full(shape[1], -1)
        expected[rows] = columns
        np.testing.assert_array_equal(gt_index[problem].numpy(), expected)


def test_ties_are_broken_as_scipy_does() -> None:
    costs = torch.zeros(3, 6, 4)
    rows, columns = linear_sum_assignment(costs[0].numpy())
    gt_index = match(costs, torch.ones(3, 4, dtype=torch.bool))
    assert gt_index[1, rows].tolist() == columns.tolist()


def test_padding_may_stand_anywhere() -> None:
    costs = torch.tensor([[[0.0, 9.0, 5.0], [9.0, 0.0, 1.0]]])
    assert match(costs, torch.tensor([[False, True, True]])).tolist() == [[2, 1]]


def test_without_objects() -> None:
    assert match(torch.zeros(2, 5, 0), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [[-1] * 5] * 2


def test_one_transfer_for_all_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(self.shape) or original(self))
    costs, valid = random_problems(1, (96, 30, 10), [10] * 96)
    match(costs, valid)
    assert len(transfers) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_costs_that_are_not_finite_name_the_problems(bad: float) -> None:
    costs, valid = random_problems(2, (4, 6, 3), [3, 3, 3, 3])
    costs[1, 2, 0] = costs[3, 0, 2] = bad
    with pytest.raises(NonFiniteCostError, match=r"not finite in the problems \[1, 3\].*BASE_LR") as caught:
        match(costs, valid)
    assert caught.value.problems == (1, 3)
    assert isinstance(caught.value, FloatingPointError)


def boxes_like(rng: torch.Generator, *shape: int) -> torch.Tensor:
    corners = 80 * torch.rand(*shape, 2, generator=rng)
    return torch.cat([corners, corners + 4 + 60 * torch.rand(*shape, 2, generator=rng)], dim=-1)


def context(seed: int = 0, *, predictions: int = 8, objects: int = 3, classes: int = 5) -> AssignContext:
    rng = torch.Generator().manual_seed(seed)
    gt = GroundTruth(
        boxes_like(rng, 2, objects), torch.randint(0, classes, (2, objects), generator=rng), torch.ones(2, objects, dtype=torch.bool)
    )
    predicted = Predictions(torch.randn(2, predictions, classes, generator=rng), boxes_like(rng, 2, predictions))
    return AssignContext(gt, predictions=predicted, image_sizes=torch.tensor([[100.0, 140.0], [120.0, 90.0]]))


def test_costs_are_those_of_equation_1() -> None:
    given = context()
    costs = HungarianAssigner(class_weight=2.0, l1_weight=5.0, giou_weight=2.0).costs(given)
    image, prediction, item = 1, 5, 2
    logit = given.predictions.logits[image, prediction, given.gt.classes[image, item]].double()
    p = logit.sigmoid()
    focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    pred, box = given.predictions.boxes[image, prediction].double(), given.gt.boxes[image, item].double()
    distance = ((pred - box).abs() / torch.tensor([90.0, 120.0, 90.0, 120.0])).sum()
    low, high = torch.maximum(pred[:2], box[:2]), torch.minimum(pred[2:], box[2:])
    overlap = (high - low).clamp(min=0).prod()
    union = (pred[2:] - pred[:2]).prod() + (box[2:] - box[:2]).prod() - overlap
    hull = (torch.maximum(pred[2:], box[2:]) - torch.minimum(pred[:2], box[:2])).prod()
    giou = overlap / union - (hull - union) / hull
    torch.testing.assert_close(costs[image, prediction, item].double(), 2 * focal + 5 * distance - 2 * giou, rtol=1e-4, atol=1e-5)


def test_softmax_cost_is_minus_the_probability() -> None:
    logits = torch.tensor([[[1.0, 2.0, 0.5]]])
    cost = softmax_class_cost(logits, torch.tensor([[1, 0]]))
    torch.testing.assert_close(cost, -logits.softmax(-1)[..., [1, 0]])


def test_costs_of_perfect_predictions_are_least() -> None:
    given = context(predictions=3)
    logits = torch.full((2, 3, 5), -5.0).scatter_(2, given.gt.classes[..., None], 5.0)
    perfect = AssignContext(given.gt, predictions=Predictions(logits, given.gt.boxes), image_sizes=given.image_sizes)
    assert HungarianAssigner()(perfect).gt_index.tolist() == [[0, 1, 2]] * 2


def test_costs_stay_in_float32_under_autocast() -> None:
    given = context()
    expected = HungarianAssigner().costs(given)
    half = Predictions(given.predictions.logits.bfloat16(), given.predictions.boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        costs = HungarianAssigner().costs(AssignContext(given.gt, predictions=half, image_sizes=given.image_sizes))
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, expected, atol=0.05, rtol=0.02)


def test_certain_predictions_have_finite_costs() -> None:
    costs = focal_class_cost(torch.tensor([[[200.0, -200.0]]]), torch.tensor([[0, 1]]))
    assert costs.isfinite().all() and costs[0, 0, 0] < 0 < costs[0, 0, 1]


def test_boxes_without_area_have_finite_costs() -> None:
    point, box = torch.tensor([[[10.0, 10.0, 10.0, 10.0]]]), torch.tensor([[[0.0, 0.0, 20.0, 20.0]]])
    assert giou_cost(point, box).isfinite().all() and giou_cost(point, point).isfinite().all()
    torch.testing.assert_close(l1_cost(point, box, torch.tensor([[20.0, 40.0]])), torch.tensor([[[1.5]]]))


def test_from_config() -> None:
    cfg = get_cfg()
    cfg.MODEL.ASSIGNERS.HUNGARIAN.L1_WEIGHT = 7.0
    assigner = build_assigner("HungarianAssigner", cfg, key="MODEL.SPARSE_RCNN.ASSIGNER")
    assert isinstance(assigner, HungarianAssigner) and assigner.l1_weight == 7.0 and assigner.needs_predictions
    cfg.MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST = "hinge"
    with pytest.raises(ValueError, match=r"MODEL\.ASSIGNERS\.HUNGARIAN\.CLASS_COST is 'hinge'\. It has to be one of 'focal', 'softmax'"):
        build_assigner("HungarianAssigner", cfg, key="MODEL.SPARSE_RCNN.ASSIGNER")


def test_without_predictions() -> None:
    with pytest.raises(ValueError, match="AssignContext.predictions"):
        HungarianAssigner()(AssignContext(context().gt))


def test_on_a_dense_head() -> None:
    """One location for each object, whatever the level."""
    cfg = tiny_cfg("FCOS")
    cfg.MODEL.FCOS.ASSIGNER = "HungarianAssigner"
    model, inputs = build_model(cfg).train(), random_inputs(2, num_boxes=3)
    losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    images = model.preprocess_image(inputs)
    predictions, priors = model.pipeline.decode(model.predict(images))
    gt = GroundTruth.from_instances([item["instances"] for item in inputs])
    gt_index = model.pipeline.assign(priors, gt, predictions, images.image_sizes).gt_index
    assert all(sorted(row[row >= 0].tolist()) == [0, 1, 2] for row in gt_index)
