import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.assigners import AssignContext, ATSSAssigner
from detkit.assigners.atss import highest_iou_wins, nearest_on_grid, select_by_iou_statistics
from detkit.geometry import Grid, Priors, square_anchors
from tests.assigners import oracles
from tests.assigners.strategies import assert_same, contexts, padded

CPU = torch.device("cpu")


@settings(deadline=None, derandomize=True)
@given(contexts(), st.integers(1, 15))
def test_equals_the_oracle(context, k):
    assert_same(ATSSAssigner(topk=k)(context), oracles.atss(context, k))


@settings(deadline=None, derandomize=True)
@given(contexts(), st.integers(1, 15))
def test_candidates_are_exactly_the_nearest(context, k):
    found = nearest_on_grid(context.gt.boxes, context.priors, k, context.valid_sizes)
    for image in range(len(context.gt.boxes)):
        priors = oracles.priors_of(context, image)
        for gt, box in oracles.objects_of(context, image).items():
            index = found.prior_index[found.valid[:, image, gt], image, gt].tolist()
            assert sorted(index) == sorted(oracles.nearest_candidates(context, priors, box, k))


@settings(deadline=None, derandomize=True)
@given(contexts())
def test_candidates_carry_the_boxes_of_the_priors(context):
    found = nearest_on_grid(context.gt.boxes, context.priors, 9, context.valid_sizes)
    torch.testing.assert_close(found.boxes[found.valid], context.priors.boxes[found.prior_index[found.valid]], rtol=0, atol=0)


def test_equal_ious_are_not_below_their_mean():
    ious = torch.full((9, 1, 1), 0.1)
    assert select_by_iou_statistics(ious, torch.ones_like(ious, dtype=torch.bool)).all()


def test_a_single_candidate_is_selected():
    valid = torch.tensor([True, False, False])[:, None, None]
    assert select_by_iou_statistics(torch.tensor([0.3, 0.9, 0.9])[:, None, None], valid).equal(valid)


def test_statistics_against_numpy():
    ious = torch.rand(45, 2, 7, generator=torch.Generator().manual_seed(0))
    expected = ious.double().numpy() >= (ious.double().mean(0) + torch.from_numpy(ious.double().numpy().std(0, ddof=1))).numpy()
    assert select_by_iou_statistics(ious, torch.ones_like(ious, dtype=torch.bool)).numpy().tolist() == expected.tolist()


def test_conflicts_go_to_the_highest_iou_then_to_the_lowest_index():
    index = torch.tensor([[[0, 0, 0]], [[1, 1, 1]], [[2, 2, 2]]])
    ious = torch.tensor([[[0.2, 0.3, 0.25]], [[0.5, 0.5, 0.5]], [[0.0, 0.0, 0.9]]])
    positive = torch.tensor([[[True, True, True]], [[False, True, True]], [[False, True, False]]])
    assert highest_iou_wins(index, ious, positive, 4).tolist() == [[1, 1, 1, -1]]


@pytest.mark.parametrize(("margin", "gt"), [(0.005, -1), (0.02, 0)])
def test_center_lies_inside_by_more_than_a_hundredth(margin, gt):
    priors = Priors(Grid(((1, 1),), (8,), 0.5, CPU), square_anchors((8,)))
    context = AssignContext(padded([np.array([[4 - margin, 0, 40, 40]], np.float32)]), priors)
    assert ATSSAssigner()(context).gt_index.tolist() == [[gt]]


def test_thousand_objects_outside_the_image_get_nothing():
    grid = Grid(((20, 30), (10, 15)), (8, 16), 0.5, CPU)
    boxes = np.random.default_rng(0).uniform(1000, 2000, (1000, 2)).astype(np.float32)
    context = AssignContext(padded([np.concatenate([boxes, boxes + 50], 1)]), Priors(grid, square_anchors((8, 16))))
    assert (ATSSAssigner()(context).gt_index == -1).all()


def test_wrong_topk_is_named():
    with pytest.raises(ValueError, match="topk must be at least 1, not 0"):
        ATSSAssigner(topk=0)
