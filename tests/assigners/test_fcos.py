import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.assigners import AssignContext, FCOSAssigner
from detkit.geometry import Grid, Priors, square_anchors
from tests.assigners import oracles
from tests.assigners.strategies import assert_same, contexts, padded

CPU = torch.device("cpu")


def points(sizes, strides, offset=0.5, plus_one=0.0):
    return Priors(Grid(sizes, strides, offset, CPU), square_anchors(strides, plus_one=plus_one), plus_one)


@settings(deadline=None, derandomize=True)
@given(contexts(), st.sampled_from([0.0, 0.5, 1.0, 1.1, 1.5, 2.5]), st.sampled_from([16, 32, 64.5]), st.booleans())
def test_equals_the_oracle(context, radius, first_size, inclusive):
    sizes = [first_size * 2**i for i in range(context.priors.grid.num_levels - 1)]
    assigner = FCOSAssigner(sizes_of_interest=sizes, center_radius=radius, inclusive_ranges=inclusive)
    assert_same(assigner(context), oracles.fcos(context, sizes, radius, inclusive))


@pytest.mark.parametrize("inclusive", [True, False])
def test_distance_on_the_end_of_a_range(inclusive):
    priors = points(((8, 8), (4, 4)), (8, 16))
    box = np.array([[20.0, 20.0, 84.0, 52.0]], np.float32)  # from (20, 36) the right side is 64 away: no location there
    context = AssignContext(padded([box]), priors)
    at_32 = (torch.maximum(priors.points - torch.tensor([20.0, 20]), torch.tensor([84.0, 52]) - priors.points).amax(1)) == 32
    inside = (priors.points > torch.tensor([20.0, 20])).all(1) & (priors.points < torch.tensor([84.0, 52])).all(1)
    on_end = at_32 & inside
    assert on_end.any()
    result = FCOSAssigner(sizes_of_interest=[32], center_radius=0, inclusive_ranges=inclusive)(context)
    assert (result.gt_index[0, on_end] == (0 if inclusive else -1)).all()


def test_distance_that_rounds_onto_the_end_of_a_range():
    """The left side is a hair more than 64 away, which float32 does not see."""
    priors = points(((4, 16), (2, 8)), (8, 16), offset=0.0)
    context = AssignContext(padded([np.array([[-1e-9, -4, 100, 20]], np.float32)]), priors)
    result = FCOSAssigner(sizes_of_interest=[64], center_radius=0)(context)
    assert_same(result, oracles.fcos(context, [64], 0.0))
    assert result.gt_index[0, 8] == 0


def test_plus_one_decides_which_area_is_smaller():
    boxes = np.array([[10, 10, 50, 30], [10, 10, 39, 38]], np.float32)  # 800 < 812, but 41 * 21 = 861 < 30 * 29 = 870
    thin = np.array([[10, 10, 110, 18], [10, 10, 39, 38]], np.float32)  # 800 < 812, but 101 * 9 = 909 > 870
    for plus_one, image, winner in [(0.0, boxes, 0), (1.0, boxes, 0), (0.0, thin, 0), (1.0, thin, 1)]:
        priors = points(((8, 16),), (8,), plus_one=plus_one)
        result = FCOSAssigner(sizes_of_interest=[], center_radius=0)(AssignContext(padded([image]), priors))
        both = 1 * 16 + 2  # location (20, 12)
        assert result.gt_index[0, both] == winner


def test_window_holds_an_object_as_long_as_the_range():
    """68 pixels at stride 8 from just before a location to just behind another: ten cells."""
    context = AssignContext(padded([np.array([[11.2, 11.2, 79.1, 79.1]], np.float32)]), points(((16, 16), (8, 8)), (8, 16)))
    result = FCOSAssigner(sizes_of_interest=[68], center_radius=0)(context)
    assert_same(result, oracles.fcos(context, [68], 0.0))
    assert result.gt_index[0, : 16 * 16].view(16, 16)[9, 9] == 0


def test_window_does_not_grow_with_the_image():
    sizes = ((400, 400), (200, 200), (100, 100), (50, 50), (10, 10))
    context = AssignContext(padded([np.zeros((1, 4), np.float32)]), points(sizes, (8, 16, 32, 64, 128)))
    assert FCOSAssigner(center_radius=0.0).ahead(context) == (10, 10)
    assert FCOSAssigner(center_radius=1.5).ahead(context) == (4, 4)


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="sizes_of_interest"):
        FCOSAssigner(sizes_of_interest=[128, 64])
    with pytest.raises(ValueError, match="center_radius"):
        FCOSAssigner(center_radius=-1)
    context = AssignContext(padded([np.zeros((0, 4), np.float32)]), points(((2, 2),), (8,)))
    with pytest.raises(ValueError, match="SIZES_OF_INTEREST.*5 ranges.*1 level"):
        FCOSAssigner()(context)


def test_published_ranges():
    assigner = FCOSAssigner()
    assert assigner.range_starts.tolist() == [-1, 64, 128, 256, 512]
    assert assigner.range_ends.tolist() == [64, 128, 256, 512, math.inf]
