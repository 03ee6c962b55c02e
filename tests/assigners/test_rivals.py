"""PAA, OTA, AutoAssign, TOOD's and MuSu's weightings against the plain loops of :mod:`tests.assigners.rivals`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detkit.assigners import AssignContext, AutoAssignAssigner, MuSuAssigner, OTAAssigner, PAAAssigner, SoftAssignment, TaskAlignedAssigner
from detkit.assigners.ota import OFF_CENTER
from detkit.assigners.paa import low_cost_component
from detkit.assigners.pair_costs import dynamic_counts, focal_costs, iou_cost
from detkit.assigners.soft import PairValues
from detkit.structures import Predictions
from tests.assigners import rivals
from tests.toys.scenes import NUM_CLASSES, make_context, make_gt, make_priors, without_losers


def scene(seed: int, *, quality: bool = True) -> AssignContext:
    """In float64, so that no choice hangs on rounding."""
    context = make_context(seed=seed, quality=quality)
    given = context.predictions
    double = Predictions(
        given.logits.detach().double(), given.boxes.detach().double(), given.quality.detach().double() if quality else None
    )
    return replace(context, predictions=double)


def positives(assigner: PAAAssigner | OTAAssigner, context: AssignContext) -> dict[int, int]:
    """The object (flat) of every positive location (flat)."""
    labels, num_gts = assigner(context).gt_index, context.gt.valid.shape[1]
    found = (labels >= 0).nonzero().tolist()
    return {image * labels.shape[1] + prior: image * num_gts + int(labels[image, prior]) for image, prior in found}


SEEDS = pytest.mark.parametrize("seed", range(3))


@SEEDS
@pytest.mark.parametrize("options", [{}, {"topk": 4, "box_factor": 0.3, "iterations": 5}], ids=["published", "other"])
def test_paa(seed: int, options: dict) -> None:
    context = scene(seed)
    expected = rivals.paa(context, **{"topk": 9, "box_factor": 1.3, "iterations": 20} | options)
    assert positives(PAAAssigner(**options), context) == expected
    assert {0, 8} <= set(expected.values()) and len(expected) > 5


def test_a_location_wanted_twice_goes_to_the_least_loss_of_paa() -> None:
    """With all candidates positive, the overlapping objects want the same ones."""
    context = scene(0)
    wanted: dict[int, list[int]] = {}
    for gt_index, bag in rivals.candidates(context).items():
        for candidate in bag:
            wanted.setdefault(candidate.prior, []).append(gt_index)
    contested = {prior for prior, objects in wanted.items() if len(objects) > 1}
    assert len(contested) > 10
    assert len(contested & set(rivals.paa(context, topk=9, box_factor=1.3, iterations=20))) > 2


@pytest.mark.parametrize("seed", range(8))
def test_the_lower_component(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    low = 1 + 0.4 * torch.randn(12, generator=rng, dtype=torch.float64)
    cost = torch.cat([low, 2.6 + 0.3 * torch.randn(9, generator=rng, dtype=torch.float64)]).sort().values
    expected = rivals.low_component(cost.tolist(), 20)
    assert low_cost_component(cost[None])[0].tolist() == expected
    assert any(expected) and not all(expected)


@SEEDS
@pytest.mark.parametrize(
    "options",
    [{}, {"topk": 6, "iou_weight": 0.4, "center_radius": 1.2, "epsilon": 0.35, "iterations": 9}],
    ids=["published", "other"],
)
def test_ota(seed: int, options: dict) -> None:
    context = scene(seed)
    published = {"topk": 20, "iou_weight": 1.5, "center_radius": 2.5, "epsilon": 0.1, "iterations": 50}
    expected = rivals.ota(context, **published | options, off_center=OFF_CENTER)
    assert positives(OTAAssigner(**options), context) == expected
    assert {0, 8} <= set(expected.values()) and len(expected) > 5


@SEEDS
def test_ota_where_objects_want_nearly_all_locations(seed: int) -> None:
    """The background then has less than one label to give, so what it gives counts as a share of its most."""
    gt = make_gt([([[10, 10, 30, 30], [12, 12, 32, 32], [14, 10, 34, 28]], [0, 0, 1])])
    priors, rng = make_priors(), torch.Generator().manual_seed(seed)
    owners = torch.randint(0, 3, (1, priors.num_priors), generator=rng)
    boxes = gt.boxes.gather(1, owners[..., None].expand(-1, -1, 4)) + 0.3 * torch.randn(1, priors.num_priors, 4, generator=rng)
    logits = torch.randn(1, priors.num_priors, NUM_CLASSES, generator=rng)
    context = AssignContext(gt, priors, Predictions(logits.double(), boxes.double()))
    bags = rivals.candidates(context)
    places = {c.prior for bag in bags.values() for c in bag}
    wanted = sum(max(int(sum(c.iou for c in bag)), 1) for bag in bags.values())
    assert wanted >= len(places)
    expected = rivals.ota(context, topk=20, iou_weight=1.5, center_radius=2.5, epsilon=0.1, iterations=50, off_center=OFF_CENTER)
    assert positives(OTAAssigner(), context) == expected
    assert len(expected) < len(places)


def values_of(pairs: list[rivals.Candidate]) -> PairValues:
    """Pairs with these scores; the boxes do not matter."""
    score = torch.tensor([pair.score for pair in pairs], dtype=torch.float64)
    return PairValues(score.logit(), None, score.new_zeros(len(pairs), 4), score.new_zeros(len(pairs), 4))


def test_costs_and_supplies_of_pairs() -> None:
    bags = rivals.candidates(scene(1))
    pairs = [candidate for bag in bags.values() for candidate in bag]
    positive, negative = focal_costs(values_of(pairs))
    expected = torch.tensor([rivals.focal_difference(pair.score) for pair in pairs], dtype=torch.float64)
    assert_close(positive - negative, expected)
    assert_close(iou_cost(torch.tensor([1.0, 0.25, 0.0])), torch.tensor([0.0, 1.3862944, 18.420681]))
    iou, gt_index = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2, 0.1]), torch.tensor([0, 0, 0, 0, 2, 2])
    ranks = torch.tensor([0, 1, 2, 3, 0, 1])
    assert dynamic_counts(iou, ranks, gt_index, 4, 4).tolist() == [3, 1, 1, 1]
    assert dynamic_counts(iou, ranks, gt_index, 4, 2).tolist() == [1, 1, 1, 1]


def by_pair(result: SoftAssignment, values: torch.Tensor) -> dict[tuple[int, int], float]:
    pairs = zip(result.pairs.prior_index.tolist(), result.pairs.gt_index.tolist(), strict=True)
    return dict(zip(pairs, values.tolist(), strict=True))


def assert_weights(result: SoftAssignment, expected: dict[tuple[int, int], rivals.Weights], box_factor: float) -> torch.Tensor:
    """Same pairs with the same box weights; gives the expected targets in the result's order."""
    order = list(by_pair(result, result.box_weight))
    assert len(order) > 10 and set(order) == set(expected)
    assert_close(result.box_weight, torch.tensor([box_factor * expected[pair].box for pair in order], dtype=torch.float64))
    return torch.tensor([expected[pair].target for pair in order], dtype=torch.float64)


@SEEDS
@pytest.mark.parametrize(
    "options",
    [{}, {"topk": 40, "alpha": 2.0, "beta": 0.3, "gamma": 3.0, "box_factor": 0.7}],
    ids=["published", "other"],
)
def test_task_aligned(seed: int, options: dict) -> None:
    context = scene(seed)
    chosen = {"topk": 13, "alpha": 1.0, "beta": 6.0, "gamma": 2.0, "box_factor": 2.0} | options
    expected = rivals.task_aligned(context, topk=chosen["topk"], alpha=chosen["alpha"], beta=chosen["beta"])
    result = without_losers(TaskAlignedAssigner(**options)(context))
    target = assert_weights(result, expected, chosen["box_factor"])
    focus = (result.values.score - target).abs() ** chosen["gamma"]
    assert_close(result.positive_weight, target * focus)
    assert_close(result.negative_weight, (1 - target) * focus)
    assert_close(result.normalizers, target.sum().expand(3))
    assert result.background_gamma == chosen["gamma"] and result.background_factor == 1


@SEEDS
@pytest.mark.parametrize("options", [{}, {"lean": 0.45, "sharpness": 2.0, "box_factor": 0.7}], ids=["published", "other"])
def test_musu(seed: int, options: dict) -> None:
    context = scene(seed)
    chosen = {"lean": 0.2, "sharpness": 5.0, "box_factor": 2.0} | options
    expected = rivals.musu(context, lean=chosen["lean"], sharpness=chosen["sharpness"])
    result = MuSuAssigner(**options)(context)
    target = assert_weights(result, expected, chosen["box_factor"])
    assert_close(result.positive_weight, target * (result.values.score - target) ** 2)
    assert_close(result.negative_weight, (1 - target) ** 4 * result.values.score**2)
    boxes = result.box_weight.sum() / chosen["box_factor"]
    assert_close(result.normalizers, torch.stack([target.sum(), target.sum(), boxes]))


def test_where_objects_of_one_class_overlap_the_last_decides_a_negative_of_musu() -> None:
    """Objects 1 and 2 of the first image overlap and share a class."""
    result = MuSuAssigner()(scene(0))
    counts = by_pair(result, result.counts_negative)
    shared = {prior for prior, gt_index in counts if gt_index == 1} & {prior for prior, gt_index in counts if gt_index == 2}
    assert len(shared) > 10
    assert all(counts[prior, 2] and not counts[prior, 1] for prior in shared)
    assert all(counts[prior, gt_index] for prior, gt_index in counts if prior not in shared)


@SEEDS
@pytest.mark.parametrize("box_sharpness", [5.0, 2.0])
def test_autoassign(seed: int, box_sharpness: float) -> None:
    context = scene(seed)
    expected = rivals.autoassign(context, sharpness=3.0, box_sharpness=box_sharpness)
    assigner = AutoAssignAssigner(num_classes=NUM_CLASSES, box_sharpness=box_sharpness, positive=0.3, negative=0.6, center=0.9)
    result = assigner.double()(context)
    weights = [expected[pair] for pair in by_pair(result, result.positive_weight)]
    assert len(weights) == len(expected) > 10
    assert_close(result.positive_weight, torch.tensor([w.positive for w in weights], dtype=torch.float64))
    assert_close(result.negative_weight, torch.tensor([w.negative for w in weights], dtype=torch.float64))
    count, total = float(context.gt.valid.sum()), sum(w.center for w in weights)
    assert_close(result.normalizers, torch.tensor([count, total, count], dtype=torch.float64))
    assert (result.positive_factor, result.negative_factor, result.background_factor, result.box_sharpness) == (
        0.3,
        0.6,
        0.6,
        box_sharpness,
    )
    images = context.gt.valid.shape[0]
    sums = [sum(w.center for (prior, _), w in expected.items() if prior // context.priors.num_priors == i) for i in range(images)]
    losses = [0.9 * int(context.gt.valid[i].sum()) / total for i, total in enumerate(sums) if total]
    assert_close(result.extra_losses["loss_center"].double(), torch.tensor(sum(losses) / images, dtype=torch.float64))
