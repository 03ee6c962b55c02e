import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detkit.assigners import AssignContext
from detkit.assigners.candidates import CenterPrior, hard_labels, nearest_points, points_inside, points_near_center
from detkit.assigners.soft import hard_pairs
from detkit.structures import HardAssignment
from tests.assigners.oracles import nearest_candidates, objects_of, priors_of
from tests.assigners.strategies import contexts
from tests.toys.scenes import make_context


def is_inside(prior, box):
    (x, y), (x0, y0, x1, y1) = prior.point, box
    return prior.takes_part and min(x - x0, y - y0, x1 - x, y1 - y) > 0


def expected_pairs(context, wanted):
    """(prior, object) of the batch by plain loops, object by object; ``wanted(priors, box)`` gives the indices."""
    num_priors, num_gts = context.priors.num_priors, context.gt.valid.shape[1]
    pairs = []
    for image in range(len(context.gt.boxes)):
        priors = priors_of(context, image)
        for index, box in objects_of(context, image).items():
            pairs += [(image * num_priors + prior, image * num_gts + index) for prior in wanted(priors, box)]
    return pairs


def as_list(pairs):
    return list(zip(pairs.prior_index.tolist(), pairs.gt_index.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(contexts())
def test_points_inside_are_those_that_a_loop_finds_in_the_same_order(context):
    expected = expected_pairs(context, lambda priors, box: [i for i, prior in enumerate(priors) if is_inside(prior, box)])
    assert as_list(points_inside(context)) == expected


@settings(max_examples=15, deadline=None)
@given(contexts(max_anchors=1), st.sampled_from([1.0, 1.7, 2.5]))
def test_points_near_the_center(context, radius):
    def wanted(priors, box):
        center = [(box[i] + box[i + 2]) / 2 for i in (0, 1)]
        far = [sum(((prior.point[i] - center[i]) / prior.stride) ** 2 for i in (0, 1)) >= radius**2 for prior in priors]
        return [i for i, prior in enumerate(priors) if is_inside(prior, box) and not far[i]]

    assert as_list(points_near_center(context, radius)) == expected_pairs(context, wanted)


@settings(max_examples=15, deadline=None)
@given(contexts(), st.integers(1, 9))
def test_nearest_points(context, k):
    def wanted(priors, box):
        return [i for i in nearest_candidates(context, priors, box, k) if is_inside(priors[i], box)]

    pairs = as_list(nearest_points(context, k))
    assert sorted(pairs) == sorted(expected_pairs(context, wanted))
    assert [gt for _, gt in pairs] == sorted(gt for _, gt in pairs)


def test_levels_of_pairs():
    context = make_context()
    pairs = points_inside(context)
    starts = context.priors.grid.level_starts
    for prior, level in zip(pairs.prior_index.tolist(), context.priors.levels_of(pairs.prior_index % 252).tolist(), strict=True):
        assert starts[level] <= prior % context.priors.num_priors < starts[level + 1]


def test_labels_to_pairs_and_back():
    context = make_context()
    gt_index = torch.full((3, context.priors.num_priors), -1)
    gt_index[0, [3, 70]], gt_index[0, 5], gt_index[2, 200] = 2, 1, 0
    pairs = hard_pairs(HardAssignment(gt_index), context.gt)
    assert as_list(pairs) == [(5, 1), (3, 2), (70, 2), (2 * 252 + 200, 8)]
    assert hard_labels(pairs, context, torch.ones(len(pairs.gt_index), dtype=torch.bool)).gt_index.equal(gt_index)


def test_center_prior_is_a_gaussian_in_strides_of_each_level():
    context = make_context()
    prior = CenterPrior(3, sigma=1.11)
    prior.mean[1] = torch.tensor([0.5, -0.25])
    prior.sigma[1] = torch.tensor([1.0, 2.0])
    pairs = points_inside(context)
    expected = []
    for index, gt_index in as_list(pairs):
        box, label = context.gt.boxes.flatten(0, 1)[gt_index].tolist(), int(context.gt.classes.flatten()[gt_index])
        point, stride = context.priors.points[index % 252].tolist(), float(context.priors.strides[index % 252])
        value = 1.0
        for axis in (0, 1):
            distance = (point[axis] - (box[axis] + box[axis + 2]) / 2) / stride - float(prior.mean[label, axis])
            value *= math.exp(-(distance**2) / (2 * float(prior.sigma[label, axis]) ** 2))
        expected.append(value)
    assert_close(prior(pairs, context.gt, context.priors), torch.tensor(expected))


def test_center_prior_is_saved_and_learned_on_request():
    assert set(CenterPrior(4).state_dict()) == {"mean", "sigma"} and not list(CenterPrior(4).parameters())
    assert len(list(CenterPrior(4, learned=True).parameters())) == 2
    with pytest.raises(ValueError, match="positive number of strides"):
        CenterPrior(4, sigma=0.0)


def test_boxes_of_other_size_may_be_asked_for():
    context = make_context()
    whole = AssignContext(context.gt, context.priors)
    middle = points_inside(whole, context.gt.boxes.mul(0.5).numpy())
    halved = points_inside(AssignContext(type(context.gt)(context.gt.boxes * 0.5, context.gt.classes, context.gt.valid), context.priors))
    assert as_list(middle) == as_list(halved) != as_list(points_inside(whole))
