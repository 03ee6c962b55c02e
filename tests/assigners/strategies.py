"""Random situations for the property tests of the assigners: grids, anchors and padded batches of boxes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from detkit.assigners import AssignContext
from detkit.geometry import Grid, Priors, square_anchors
from detkit.structures import GroundTruth, HardAssignment

#: strides of the levels: a part of the usual pyramid, a single level, strides that are no powers of two
STRIDES = [(8, 16, 32), (4,), (10, 24)]
#: tiny levels, long ones, ordinary ones
SIZES = [(1, 1), (1, 2), (2, 30), (30, 2), (5, 7), (6, 4), (9, 12)]


@st.composite
def boxes(draw: st.DrawFn, count: int) -> np.ndarray:
    """(count, 4) boxes: on a coarse raster (ties in area, distance and IoU everywhere) or anywhere; also empty, outside, beyond."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raster = draw(st.sampled_from([8.0, 4.0, 1.0, 0.0]))
    reach = draw(st.sampled_from([40.0, 150.0, 400.0]))
    corners = rng.uniform(-0.5 * reach, reach, (count, 2))
    sides = np.exp(rng.uniform(np.log(2.0), np.log(1.5 * reach), (count, 2)))
    result = np.concatenate([corners, corners + sides], axis=1)
    return (np.round(result / raster) * raster if raster else result).astype(np.float32)


@st.composite
def contexts(draw: st.DrawFn, max_anchors: int = 3) -> AssignContext:
    """What an assigner gets: 1 to 3 images of 0 to 6 objects, one grid, square anchors, perhaps images smaller than the batch."""
    strides = draw(st.sampled_from(STRIDES))
    sizes = tuple(draw(st.sampled_from(SIZES)) for _ in strides)
    grid = Grid(sizes, strides, draw(st.sampled_from([0.0, 0.5])), torch.device("cpu"))
    plus_one = draw(st.sampled_from([0.0, 1.0]))
    scales = [4.0, 2.0, 8.0][: draw(st.integers(1, max_anchors))]
    priors = Priors(grid, square_anchors(strides, scales, plus_one=plus_one), plus_one)
    counts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    gt = padded([draw(boxes(count)) for count in counts])
    valid_sizes = None
    if draw(st.booleans()):
        own = [[[draw(st.integers(0, cells)) for cells in size] for size in sizes] for _ in counts]
        valid_sizes = torch.tensor(own)
    return AssignContext(gt, priors, valid_sizes=valid_sizes)


def padded(boxes_per_image: list[np.ndarray]) -> GroundTruth:
    """Ground truth of a batch from the boxes of each image; all of class 0."""
    most = max(map(len, boxes_per_image))
    shape = (len(boxes_per_image), most)
    gt = GroundTruth(torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool))
    for image, image_boxes in enumerate(boxes_per_image):
        gt.boxes[image, : len(image_boxes)] = torch.from_numpy(image_boxes)
        gt.valid[image, : len(image_boxes)] = True
    return gt


def assert_same(actual: HardAssignment, expected: HardAssignment) -> None:
    """Equal labels; ``ignore=None`` stands for nothing ignored."""
    torch.testing.assert_close(actual.gt_index, expected.gt_index, rtol=0, atol=0)
    ignore = torch.zeros_like(expected.ignore) if actual.ignore is None else actual.ignore
    torch.testing.assert_close(ignore, expected.ignore, rtol=0, atol=0)
    assert not (ignore & (actual.gt_index >= 0)).any()
