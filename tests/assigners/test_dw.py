"""Dual weighting: the paper's equations, and what the assigner makes of the situations that matter."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detkit.assigners import DWAssigner
from detkit.assigners.dw import (
    official_negative_probability,
    official_positive_weight,
    paper_negative_probability,
    paper_positive_weight,
)
from detkit.losses import giou_loss
from tests.toys.scenes import NUM_CLASSES, OBJECTS, make_context

SCORES, IOUS = (x.flatten() for x in np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 41)))
#: the grid dealt out to three objects
GT_INDEX = np.arange(len(SCORES)) % 3


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("beta", "mu"), [(5, 5), (3, 5), (5, 8)])
def test_paper_positive_weight_is_equations_3_and_4(beta, mu):
    expected = np.zeros_like(SCORES)
    for gt in range(3):
        bag = [i for i in range(len(SCORES)) if GT_INDEX[i] == gt]
        raw = {}
        for i in bag:
            t = SCORES[i] * IOUS[i] ** beta  # (3)
            raw[i] = math.exp(mu * t) * t  # (4)
        total = sum(raw.values())  # end of section 3.2
        for i in bag:
            expected[i] = raw[i] / total
    weight = paper_positive_weight(
        tensor(SCORES), tensor(IOUS), torch.ones(len(SCORES), dtype=torch.float64), torch.tensor(GT_INDEX), 3, beta=beta, mu=mu
    )
    assert_close(weight, tensor(expected))


@pytest.mark.parametrize("gamma1", [1, 2, 3, 5])
def test_paper_negative_weight_is_equations_5_to_8(gamma1):
    k, b = np.linalg.solve([[-(0.5**gamma1), 1.0], [-(0.95**gamma1), 1.0]], [1.0, 0.0])  # (6), through (0.5, 1) and (0.95, 0)
    for score, iou in zip(SCORES, IOUS, strict=True):
        if iou < 0.5:  # (8)
            expected = score**2
        elif iou > 0.95:
            expected = 0.0
        else:
            expected = (-k * iou**gamma1 + b) * score**2
        assert_close(paper_negative_probability(tensor(iou), gamma1=gamma1) * score**2, tensor(expected), rtol=1e-9, atol=1e-9)


def test_official_weights_sum_to_one_only_with_equal_exponents():
    arguments = tensor(SCORES), tensor(1 - IOUS), torch.ones(len(SCORES), dtype=torch.float64), torch.tensor(GT_INDEX), 3
    for mu_normalizer, sums_to_one in ((5.0, True), (3.0, False)):
        weight = official_positive_weight(*arguments, mu_normalizer=mu_normalizer)
        total = torch.zeros(3, dtype=torch.float64).index_add(0, arguments[3], weight)
        assert torch.allclose(total, torch.ones_like(total)) == sums_to_one


def test_official_negative_probability_is_stretched_per_object():
    iou = torch.tensor([0.9, 0.8, 0.5, 0.3, 0.7, 0.7, 0.6])
    gt_index = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    actual = official_negative_probability(iou, gt_index, 4)
    best, worst = 1 - 0.9**2, 1 - 0.5**2
    assert_close(actual, torch.tensor([0, (1 - 0.8**2 - best) / (worst - best), 1, 1, 1, 1, 1]))


def test_weights_of_a_scene_are_the_formulas_with_the_center_prior():
    context = make_context()
    result = DWAssigner(num_classes=NUM_CLASSES)(context)
    values = result.pairs.look_up(context.predictions, context.gt)
    distance = torch.stack(
        [
            (context.priors.points[prior % 252] - (box[:2] + box[2:]) / 2) / context.priors.strides[prior % 252]
            for prior, box in zip(result.pairs.prior_index, values.gt_boxes, strict=True)
        ]
    )
    prior = (-distance.square().sum(1) / (2 * 1.11**2)).exp()
    t = values.score * (-5 * giou_loss(values.boxes, values.gt_boxes)).exp()
    for gt_index in result.pairs.gt_index.unique():
        mine = result.pairs.gt_index == gt_index
        total = ((3 * t).exp() * t * prior)[mine].sum()
        assert_close(result.positive_weight[mine], 0.25 * ((5 * t).exp() * t * prior)[mine] / total)
    assert_close(result.box_weight, 5 * result.positive_weight)


def test_of_overlapping_objects_of_a_class_the_last_decides_the_negative_weight():
    context = make_context()
    result = DWAssigner(num_classes=NUM_CLASSES)(context)
    owners = {}
    classes = result.pairs.classes(context.gt).tolist()
    for i, (prior, label) in enumerate(zip(result.pairs.prior_index.tolist(), classes, strict=True)):
        owners[prior, label] = i
    assert result.counts_negative.nonzero().flatten().tolist() == sorted(owners.values())
    assert not result.counts_negative.all()
    probability = DWAssigner(num_classes=NUM_CLASSES, negative="probability")(context).negative_weight
    shared = (1 - probability)[result.counts_negative].sum()
    assert_close(result.normalizers, torch.stack([torch.tensor(5.0), shared, torch.tensor(5.0)]))


def test_an_object_without_a_location_inside_has_no_pairs():
    result = DWAssigner(num_classes=NUM_CLASSES)(make_context())
    assert set(result.pairs.gt_index.tolist()) == {0, 1, 2, 8}


@pytest.mark.parametrize("objects", [[([], [])], [([], []), ([], [])]])
def test_images_without_objects(objects):
    result = DWAssigner(num_classes=NUM_CLASSES)(make_context(objects))
    assert len(result.pairs.gt_index) == 0 and result.normalizers.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changed", "fewer"),
    [
        ({"bag": "threshold", "radius": 1.0}, True),
        ({"bag": "topk", "topk": 2}, True),
        ({"prior": "hard"}, False),
        ({"prior": "none"}, False),
    ],
)
def test_bags_and_priors(changed, fewer):
    context = make_context()
    default, other = DWAssigner(num_classes=NUM_CLASSES)(context), DWAssigner(num_classes=NUM_CLASSES, **changed)(context)
    assert (len(other.positive_weight) < len(default.positive_weight)) == fewer
    if changed == {"prior": "hard"}:
        assert (other.positive_weight == 0).any()
    if changed == {"prior": "none"}:
        assert not (other.positive_weight == 0).any()


def test_the_parts_of_the_negative_weight():
    context = make_context()
    full, probability, importance, none, rest = (
        DWAssigner(num_classes=NUM_CLASSES, negative=name)(context)
        for name in ("full", "probability", "importance", "none", "one_minus_positive")
    )
    assert [x.negative_weight.requires_grad for x in (full, probability, importance, none, rest)] == [True, False, True, False, False]
    assert_close(importance.negative_weight, full.values.score.square())
    assert_close(probability.negative_weight * importance.negative_weight, full.negative_weight)
    assert (none.negative_weight == 0).all()
    assert_close(rest.negative_weight, (1 - full.positive_weight / 0.25).clamp(min=0))
    for variant in (probability, importance, none, rest):
        assert_close(variant.normalizers, full.normalizers)


def test_the_paper_formula_by_a_switch():
    context = make_context()
    result = DWAssigner(num_classes=NUM_CLASSES, formula="paper")(context)
    total = torch.zeros(12).index_add(0, result.pairs.gt_index, result.positive_weight)
    assert_close(total[[0, 1, 2, 8]], torch.full((4,), 0.25))


def test_unknown_choices_name_their_key():
    with pytest.raises(ValueError, match=r"bag must be one of inside, threshold, topk, not 'all'"):
        DWAssigner(num_classes=3, bag="all")


def test_an_image_is_weighted_the_same_in_any_batch():
    batched = make_context()
    result = DWAssigner(num_classes=NUM_CLASSES)(batched)
    predictions = type(batched.predictions)(
        *(x[2:] for x in (batched.predictions.logits, batched.predictions.boxes, batched.predictions.quality))
    )
    alone = make_context([OBJECTS[2]])
    alone = DWAssigner(num_classes=NUM_CLASSES)(type(alone)(alone.gt, alone.priors, predictions))
    assert_close(alone.positive_weight, result.positive_weight[result.pairs.gt_index == 8])
