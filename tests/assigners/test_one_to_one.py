"""Assigners that give each object one location, and the one of the auxiliary loss beside them, against the plain loops of
:mod:`tests.assigners.matchings`; and what holds for any objects and predictions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detkit.assigners import (
    AssignContext,
    Assigner,
    HungarianAssigner,
    NonFiniteCostError,
    OneNetAssigner,
    POTOAssigner,
    QualityATSSAssigner,
    build_assigner,
)
from detkit.assigners.candidates import points_inside
from detkit.assigners.matching import match, match_pairs
from detkit.assigners.one_to_one import best_pairs, greedy_matching
from detkit.assigners.soft import Pairs
from detkit.config import get_cfg
from detkit.geometry import Grid, Priors, square_anchors
from detkit.structures import GroundTruth, Predictions
from tests.assigners import matchings
from tests.assigners.strategies import contexts
from tests.assigners.test_rivals import positives, scene
from tests.toys.scenes import make_gt

SEEDS = pytest.mark.parametrize("seed", range(3))
ONE_TO_ONE = [OneNetAssigner(), POTOAssigner(), POTOAssigner(matching="greedy")]
EACH = pytest.mark.parametrize("assigner", ONE_TO_ONE, ids=["OneNet", "POTO", "POTO greedy"])


def sized(context: AssignContext) -> AssignContext:
    """With sizes of the images."""
    sizes = torch.tensor([[96.0, 128.0]]).repeat(len(context.gt.boxes), 1)
    sizes[-1] -= 11
    return replace(context, image_sizes=sizes)


def by_object(assigner: Assigner, context: AssignContext) -> dict[int, int]:
    """The location of every object, both flat. No object may have two."""
    found = positives(assigner, context)
    assert len(set(found.values())) == len(found)
    return {gt_index: prior for prior, gt_index in found.items()}


@SEEDS
@pytest.mark.parametrize("quality", [True, False])
@pytest.mark.parametrize("weights", [(2.0, 5.0, 2.0), (1.0, 0.0, 0.5), (0.3, 9.0, 0.0)])
def test_onenet(seed: int, quality: bool, weights: tuple[float, float, float]) -> None:
    context = sized(scene(seed, quality=quality))
    assigner = OneNetAssigner(class_weight=weights[0], l1_weight=weights[1], giou_weight=weights[2])
    values = matchings.minus_cost(context, *weights)
    expected = matchings.greedy(values)
    assert by_object(assigner, context) == expected and len(expected) == 4
    cheapest = {gt: max((prior for other, prior in values if other == gt), key=lambda p, gt=gt: values[gt, p]) for gt in expected}
    assert {gt: prior for gt, prior in expected.items() if list(cheapest.values()).count(prior) == 1}.items() <= cheapest.items()


@SEEDS
@pytest.mark.parametrize(("alpha", "radius"), [(0.8, 1.5), (0.5, 0.0), (0.2, 0.8)])
def test_poto(seed: int, alpha: float, radius: float) -> None:
    context = scene(seed)
    values = matchings.values_of(context, matchings.quality(alpha), radius=radius or 1e9)
    greedy = by_object(POTOAssigner(alpha=alpha, center_radius=radius, matching="greedy"), context)
    assert greedy == matchings.greedy(values) and len(greedy) >= 3
    found = by_object(POTOAssigner(alpha=alpha, center_radius=radius), context)
    assert optimum(values) == (len(found), pytest.approx(sum(values[pair] for pair in found.items())))


def optimum(values: matchings.Values) -> tuple[int, float]:
    """As the loop over all ways says, by SciPy on the matrix of all objects and locations, as the published code does."""
    objects, priors = (sorted({pair[axis] for pair in values}) for axis in (0, 1))
    matrix = np.full((len(objects), len(priors)), -100.0)
    for (gt_index, prior), value in values.items():
        matrix[objects.index(gt_index), priors.index(prior)] = value
    chosen = matrix[linear_sum_assignment(matrix, maximize=True)]
    return int((chosen >= 0).sum()), float(chosen[chosen >= 0].sum())


@SEEDS
@pytest.mark.parametrize(("topk", "alpha"), [(9, 0.8), (2, 0.3)])
def test_quality_atss(seed: int, topk: int, alpha: float) -> None:
    context = scene(seed)
    expected = matchings.quality_atss(context, topk=topk, alpha=alpha)
    assert positives(QualityATSSAssigner(topk=topk, alpha=alpha), context) == expected
    assert len(expected) > len(set(expected.values()))


def test_candidates_that_are_equally_good_are_all_positive() -> None:
    context = scene(0, quality=False)
    boxes = context.gt.boxes[2, :1].expand(3, 252, 4).double()
    same = replace(context, predictions=Predictions(torch.full((3, 252, 3), 0.37), boxes))
    per_level = QualityATSSAssigner(topk=3)(same).gt_index[2].split(context.priors.per_level)
    assert [int((level >= 0).sum()) for level in per_level] == [3, 3, 3]


# matching of listed pairs -----------------------------------------------------------------------------------------------------------------


def random_pairs(seed: int, *, objects: int = 4, priors: int = 5, images: int = 2, ties: bool = False) -> tuple[torch.Tensor, Pairs]:
    """Some pairs of every image, and their values; one in five must not be matched."""
    rng = np.random.default_rng(seed)
    listed = [
        (image * objects + item, image * priors + prior)
        for image in range(images)
        for item in range(objects)
        for prior in range(priors)
        if rng.random() < 0.6
    ]
    gt_index, prior_index = (torch.tensor([pair[axis] for pair in listed], dtype=torch.int64) for axis in (0, 1))
    values = rng.integers(1, 4, len(listed)) / 4 if ties else rng.random(len(listed))
    values = torch.tensor(np.where(rng.random(len(listed)) < 0.2, -np.inf, values), dtype=torch.float32)
    return values, Pairs(prior_index, gt_index, np.bincount(gt_index, minlength=images * objects))


def as_values(values: torch.Tensor, pairs: Pairs) -> matchings.Values:
    rows = zip(pairs.gt_index.tolist(), pairs.prior_index.tolist(), values.tolist(), strict=True)
    return {(gt_index, prior): value for gt_index, prior, value in rows if value > -np.inf}


def matched(chosen: torch.Tensor, pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.gt_index[chosen].tolist(), pairs.prior_index[chosen].tolist(), strict=True))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_greedy_matching_is_a_walk_through_the_sorted_pairs(seed: int, ties: bool) -> None:
    values, pairs = random_pairs(seed, ties=ties)
    found = matched(greedy_matching(values, pairs, 8, 10, rounds=4), pairs)
    assert dict(found) == matchings.greedy(as_values(values, pairs)) and len(dict(found)) == len(found)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_the_best_sum_is_that_of_all_ways(seed: int, ties: bool) -> None:
    values, pairs = random_pairs(seed, ties=ties)
    found, known = matched(match_pairs(values, pairs, 2), pairs), as_values(values, pairs)
    assert len({gt for gt, _ in found}) == len({prior for _, prior in found}) == len(found)
    total = [matchings.best_sum({pair: v for pair, v in known.items() if pair[0] // 4 == image}) for image in range(2)]
    assert len(found) == sum(count for count, _ in total)
    assert sum(known[pair] for pair in found) == pytest.approx(sum(value for _, value in total))
    assert match_pairs(values, pairs, 2).equal(match_pairs(values, pairs, 2))


def test_as_many_objects_as_possible_before_the_best_sum() -> None:
    pairs = Pairs(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), np.array([2, 1]))
    values = torch.tensor([1.0, 0.0, 0.01])
    assert match_pairs(values, pairs, 1).tolist() == [False, True, True]
    assert greedy_matching(values, pairs, 2, 2, rounds=2).tolist() == [True, False, False]  # which loses the second object


def test_a_chain_takes_as_many_rounds_as_there_are_objects() -> None:
    """Every object prefers the location of the one before it."""
    gt_index, prior_index = torch.tensor([0, 1, 1, 2, 2, 3, 3]), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    pairs, values = Pairs(prior_index, gt_index, np.array([1, 2, 2, 2])), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert matched(greedy_matching(values, pairs, 4, 4, rounds=4), pairs) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert matched(greedy_matching(values, pairs, 4, 4, rounds=3), pairs) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("seed", range(10))
def test_the_best_pairs_of_each_object_are_enough(seed: int) -> None:
    values, pairs = random_pairs(seed, priors=12)
    best, kept = best_pairs(values, pairs, 4)
    assert len(best) == kept.sizes.sum() < len(values) and kept.sizes.max() == 4
    assert kept.gt_index.equal(pairs.gt_index[best]) and kept.prior_index.equal(pairs.prior_index[best])
    for some, all_of_them in (
        (greedy_matching(values[best], kept, 8, 24, 4), greedy_matching(values, pairs, 8, 24, 4)),
        (match_pairs(values[best], kept, 2), match_pairs(values, pairs, 2)),
    ):
        assert matched(some, kept) == matched(all_of_them, pairs)


def test_one_transfer_for_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers, original = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(self.shape) or original(self))
    values, pairs = random_pairs(0, images=20)
    match_pairs(values, pairs, 20)
    assert transfers == [(2, len(values))]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_qualities_that_are_not_finite_are_among_the_best(sign: float) -> None:
    """Behind pairs that are not allowed they would be dropped, and an object would go without a location and without a word."""
    values, pairs = random_pairs(0, images=3)
    values[::2] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    values[1::2] = -torch.inf
    best, kept = best_pairs(values, pairs, 2)
    assert values[best].isnan().sum() >= len(kept.sizes) - 1
    with pytest.raises(NonFiniteCostError):
        match_pairs(values[best], kept, 3)


def test_qualities_that_are_not_finite_name_the_images() -> None:
    values, pairs = random_pairs(0, images=3)
    values[pairs.gt_index >= 8] = torch.nan
    with pytest.raises(NonFiniteCostError, match=r"not finite in the problems \[2\]"):
        match_pairs(values, pairs, 3)


# what holds for any objects ---------------------------------------------------------------------------------------------------------------


def with_predictions(context: AssignContext, seed: int, *, coarse: bool) -> AssignContext:
    """Boxes near objects; with ``coarse`` scores and boxes, of which many are equal."""
    rng = torch.Generator().manual_seed(seed)
    batch, count = len(context.gt.boxes), context.priors.num_priors
    logits = 2 * torch.randn(batch, count, 2, generator=rng)
    boxes = context.priors.boxes + 8 * torch.randn(batch, count, 4, generator=rng)
    boxes = torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)], dim=-1)
    if coarse:
        logits, boxes = logits.round(), (boxes / 64).round() * 64
    return replace(context, predictions=Predictions(logits, boxes), image_sizes=torch.full((batch, 2), 256.0))


@settings(max_examples=60, deadline=None)
@given(contexts(max_anchors=2), st.integers(0, 1000), st.booleans())
def test_one_location_for_each_object_and_none_is_lost(context: AssignContext, seed: int, coarse: bool) -> None:
    context = with_predictions(context, seed, coarse=coarse)
    pairs = points_inside(context)
    table = csr_array((np.ones(len(pairs.gt_index)), (pairs.gt_index, pairs.prior_index)), shape=table_shape(context))
    most = int((maximum_bipartite_matching(table, perm_type="column") >= 0).sum()) if table.nnz else 0
    for assigner in (OneNetAssigner(), POTOAssigner(center_radius=0), POTOAssigner(center_radius=0, matching="greedy")):
        result = assigner(context)
        found = by_object(assigner, context)
        inside = set(zip(pairs.gt_index.tolist(), pairs.prior_index.tolist(), strict=True))
        assert set(found.items()) <= inside
        assert result.ignore is None or not (result.ignore & (result.gt_index >= 0)).any()
        if isinstance(assigner, POTOAssigner) and assigner.matching == "hungarian":
            assert len(found) == most
        lost = set(pairs.gt_index.tolist()) - set(found)
        assert all(prior in found.values() for gt_index, prior in inside if gt_index in lost), "it could have a location that is free"


@settings(max_examples=60, deadline=None)
@given(contexts(max_anchors=2), st.integers(0, 1000))
def test_a_matching_of_all_locations_has_none_in_the_padding(context: AssignContext, seed: int) -> None:
    context = with_predictions(context, seed, coarse=False)
    assigner = HungarianAssigner()
    result, costs = assigner(context), assigner.costs(context)
    assert (result.ignore is None) is (context.valid_sizes is None)
    padding = torch.zeros_like(result.gt_index, dtype=torch.bool) if result.ignore is None else result.ignore
    for image, rows in enumerate(~padding):
        found = result.gt_index[image]
        alone = match(costs[image : image + 1, rows], context.gt.valid[image : image + 1])[0]
        assert (found[~rows] == -1).all() and found[rows].equal(alone)


def test_the_padding_of_a_batch_is_not_background() -> None:
    context = sized(scene(0))
    sizes = torch.tensor(context.grid_priors.grid.sizes).expand(len(context.gt.boxes), -1, -1).clone()
    sizes[-1] = (sizes[-1] + 1) // 2
    result = HungarianAssigner()(replace(context, valid_sizes=sizes))
    assert result.ignore is not None and result.ignore[-1].any() and not result.ignore[:-1].any()


def test_endless_costs_do_not_go_unnoticed() -> None:
    """Without a location the object would have no loss, and a network that has overflowed would train on without a word."""
    context = sized(scene(0))
    expected = by_object(OneNetAssigner(), context)
    predictions = context.given_predictions
    broken = replace(context, predictions=replace(predictions, logits=torch.full_like(predictions.logits, -torch.inf)))
    assert set(by_object(OneNetAssigner(), broken)) == set(expected) and expected


def table_shape(context: AssignContext) -> tuple[int, int]:
    return max(context.gt.valid.numel(), 1), context.gt.valid.shape[0] * context.priors.num_priors


@EACH
def test_more_objects_than_locations(assigner: Assigner) -> None:
    priors = Priors(Grid(((1, 2),), (32,), 0.5, torch.device("cpu")), square_anchors((32,)))
    box = [2.0, 2.0, 62.0, 30.0]
    gt = make_gt([([[2.0, 2.0, 30.0, 30.0], *[box] * 4], [0] * 5)])
    context = AssignContext(gt, priors, Predictions(torch.zeros(1, 2, 1), torch.tensor([[box, box]])), image_sizes=torch.full((1, 2), 64.0))
    labels = replace_radius(assigner)(context).gt_index[0].tolist()
    assert len(set(labels)) == 2 and min(labels) >= 0


def replace_radius(assigner: Assigner) -> Assigner:
    return POTOAssigner(matching=assigner.matching, center_radius=0) if isinstance(assigner, POTOAssigner) else assigner


@EACH
def test_without_objects(assigner: Assigner) -> None:
    context = sized(scene(0))
    for objects in ([([], [])] * 3, [([[41.0, 41, 43, 43]], [0])] * 3):  # the second one holds no location
        assert (assigner(replace(context, gt=make_gt(objects))).gt_index == -1).all()


@EACH
def test_an_image_is_labeled_the_same_in_any_batch(assigner: Assigner) -> None:
    context = sized(scene(1))
    whole = assigner(context).gt_index
    assert (whole[0] >= 0).sum() == 3 and (whole[1] == -1).all() and (whole[2] >= 0).sum() == 1
    for image in range(3):
        only = slice(image, image + 1)
        gt, p = context.gt, context.predictions
        alone = AssignContext(
            GroundTruth(gt.boxes[only], gt.classes[only], gt.valid[only]),
            context.priors,
            Predictions(p.logits[only], p.boxes[only], p.quality[only]),
            image_sizes=context.image_sizes[only],
        )
        assert assigner(alone).gt_index[0].equal(whole[image])


@pytest.mark.parametrize("assigner", [ONE_TO_ONE[0], ONE_TO_ONE[2]], ids=["OneNet", "POTO greedy"])
def test_the_first_of_equal_objects_has_the_best_location(assigner: Assigner) -> None:
    box, elsewhere = [20.0, 20.0, 84.0, 76.0], [90.0, 4.0, 120.0, 40.0]
    context = scene(0, quality=False)
    rng = torch.Generator().manual_seed(0)
    boxes = torch.tensor(box) + 4 * torch.randn(1, 252, 4, generator=rng)
    predictions = Predictions(torch.randn(1, 252, 3, generator=rng), boxes)
    places = []
    for order in ([box, elsewhere, box, box], [box, box, elsewhere, box]):
        gt = make_gt([(order, [1 if each is box else 0 for each in order])])
        found = AssignContext(gt, context.priors, predictions, image_sizes=torch.tensor([[96.0, 128.0]]))
        labels = assigner(found).gt_index[0].tolist()
        places.append([labels.index(number) for number, each in enumerate(order) if each is box])
    assert places[0] == places[1]  # the order of the equal ones decides, and nothing else
    alone = AssignContext(make_gt([([box], [1])]), context.priors, predictions, image_sizes=torch.tensor([[96.0, 128.0]]))
    assert assigner(alone).gt_index[0].tolist().index(0) == places[0][0]


@pytest.mark.parametrize("name", ["OneNetAssigner", "POTOAssigner", "QualityATSSAssigner"])
def test_by_name(name: str) -> None:
    context = sized(scene(0))
    assigner = build_assigner(name, get_cfg(), key="MODEL.FCOS.ASSIGNER")
    assert assigner.needs_predictions and not assigner.gives_weights
    assert not assigner(context).gt_index.requires_grad and (assigner(context).gt_index >= 0).any()


def test_what_they_need_is_named() -> None:
    with pytest.raises(ValueError, match="OneNetAssigner needs AssignContext.image_sizes"):
        OneNetAssigner()(scene(0))
    with pytest.raises(ValueError, match="matching must be 'hungarian' or 'greedy', not 'auction'"):
        POTOAssigner(matching="auction")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="topk must be at least 1, not 0"):
        QualityATSSAssigner(topk=0)


def test_all_ways_are_tried() -> None:
    """The oracle's oracle: three objects that want two places."""
    values = dict(zip(itertools.product(range(3), (7, 8)), (0.9, 0.8, 0.7, 0.1, 0.2, 0.3), strict=True))
    assert matchings.best_sum(values) == (2, pytest.approx(1.5)) == optimum(values)
