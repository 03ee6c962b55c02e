import numpy as np
import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.assigners import AssignContext, IoUAssigner, overlaps
from detkit.geometry import Grid, Priors, square_anchors
from tests.assigners import oracles
from tests.assigners.strategies import assert_same, contexts, padded


@settings(deadline=None, derandomize=True)
@given(
    contexts(),
    st.booleans(),
    st.sampled_from([(0.4, 0.5), (0.3, 0.7), (0.5, 0.5)]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
)
def test_equals_the_oracle(context, allow_low_quality, thresholds, low_quality_from, only_center_inside):
    assigner = IoUAssigner(
        thresholds=thresholds,
        allow_low_quality=allow_low_quality,
        low_quality_from=low_quality_from,
        only_center_inside=only_center_inside,
    )
    expected = oracles.iou(context, thresholds, allow_low_quality, low_quality_from, only_center_inside)
    assert_same(assigner(context), expected)


def test_anchors_centered_outside_are_ignored_by_choice():
    grid = Grid(((1, 2),), (8,), 0.5, torch.device("cpu"))
    priors = Priors(grid, (torch.tensor([[-8.0, -4, 8, 4]]),))  # centered on x = 4 and x = 12
    context = AssignContext(padded([np.array([[0, 0, 11, 8]], np.float32)]), priors)
    plain, inside = IoUAssigner(thresholds=(0.1, 0.2))(context), IoUAssigner(thresholds=(0.1, 0.2), only_center_inside=True)(context)
    assert plain.gt_index.tolist() == [[0, 0]] and plain.ignore.tolist() == [[False, False]]
    assert inside.gt_index.tolist() == [[0, -1]] and inside.ignore.tolist() == [[False, True]]


@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize("raster", [8.0, 0.01])
def test_equals_detectron2(allow_low_quality, raster):
    grid = Grid(((12, 16), (6, 8), (3, 4)), (8, 16, 32), 0.0, torch.device("cpu"))
    priors = Priors(grid, square_anchors(grid.strides, scales=(4.0, 5.04), ratios=(0.5, 1.0, 2.0)))
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (3, 20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 60, (3, 20, 2))], 2)
    boxes = (np.round(boxes / raster) * raster).astype(np.float32)
    result = IoUAssigner(allow_low_quality=allow_low_quality)(AssignContext(padded(list(boxes)), priors))
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=allow_low_quality)
    for image in range(3):
        matches, labels = matcher(pairwise_iou(Boxes(torch.from_numpy(boxes[image])), Boxes(priors.boxes)))
        assert result.gt_index[image].equal(torch.where(labels == 1, matches, -1))
        assert result.ignore[image].equal(labels == -1)


def crowd(kind):
    """Many objects on 256 x 320 pixels, each of which overlaps an anchor."""
    rng = np.random.default_rng(7)
    low, high = {"tiny": (0.5, 6), "huge": (200, 900), "long": (2, 400)}.get(kind, (4, 300))
    sides = np.exp(rng.uniform(np.log(low), np.log(high), (80, 2)))
    centers = rng.uniform(0, 1, (80, 2)) * [320, 256]
    if kind == "beyond":
        centers = np.round(rng.uniform(-0.2, 1.2, (80, 2))) * [320, 256]
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    if kind == "ties":
        boxes = np.repeat(np.round(boxes[:40] / 16) * 16, 2, axis=0)
        boxes[:, 2:] += 16 * (boxes[:, 2:] == boxes[:, :2])
    return boxes.astype(np.float32)


@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("kind", ["mixed", "tiny", "huge", "long", "beyond", "ties", "one", "none"])
def test_equals_detectron2_in_a_crowd(kind, ratios):
    sizes = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))
    grid = Grid(sizes, (8, 16, 32, 64, 128), 0.5, torch.device("cpu"))
    scales = (8.0,) if len(ratios) == 1 else (4.0, 5.04, 6.35)
    priors = Priors(grid, square_anchors(grid.strides, scales=scales, ratios=ratios))
    boxes = crowd(kind)[: {"one": 1, "none": 0}.get(kind)]
    result = IoUAssigner()(AssignContext(padded([boxes]), priors))
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(
        pairwise_iou(Boxes(torch.from_numpy(boxes)), Boxes(priors.boxes))
    )
    assert result.gt_index[0].equal(torch.where(labels == 1, matches, -1))
    assert result.ignore[0].equal(labels == -1)


@pytest.mark.parametrize("kind", ["mixed", "tiny", "ties"])
def test_compares_a_small_part_of_all_pairs(kind, monkeypatch):
    grid = Grid(((100, 168), (50, 84), (25, 42), (13, 21), (7, 11)), (8, 16, 32, 64, 128), 0.5, torch.device("cpu"))
    priors, compared = Priors(grid, square_anchors(grid.strides)), []
    compare = overlaps._Search._compare_rows
    monkeypatch.setattr(overlaps._Search, "_compare_rows", lambda self, rows, *args: (compared.append(rows), compare(self, rows, *args))[1])
    boxes = np.concatenate([crowd(kind) + np.float32([x, y, x, y]) for x in (0, 320, 640) for y in (0, 256, 512)])
    IoUAssigner()(AssignContext(padded([boxes]), priors))
    numbers = [int(rows.lengths.sum()) for rows in compared]
    assert 0 < sum(numbers) < 0.02 * len(boxes) * priors.num_priors  # 16 million
    assert max(numbers) < 2 * overlaps.PAIRS_AT_ONCE


def test_object_without_overlap_takes_no_anchor():
    grid = Grid(((4, 4),), (8,), 0.5, torch.device("cpu"))
    context = AssignContext(padded([np.array([[500, 500, 600, 600]], np.float32)]), Priors(grid, square_anchors(grid.strides)))
    assert (IoUAssigner()(context).gt_index == -1).all()


@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.5,), (0.0, 0.5)])
def test_wrong_thresholds_are_named(thresholds):
    with pytest.raises(ValueError, match="thresholds takes two IoUs"):
        IoUAssigner(thresholds=thresholds)
