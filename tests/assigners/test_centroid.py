"""One location per object, and ATSS on predicted boxes, against slow and obvious code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detkit.assigners import AssignContext, ATSSAssigner, CentroidAssigner, PredictedATSSAssigner
from detkit.geometry import Grid, Priors, square_anchors
from detkit.structures import GroundTruth, Predictions

STRIDES = (8, 16, 32)
SIZES = ((12, 16), (6, 8), (3, 4))


def priors(offset: float = 0.0) -> Priors:
    return Priors(Grid(SIZES, STRIDES, offset, torch.device("cpu")), square_anchors(STRIDES))


def objects(num_images: int = 2, count: int = 6, seed: int = 0) -> GroundTruth:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_images, count, 2, generator=generator) * torch.tensor([100.0, 70.0])
    boxes = torch.cat([corners, corners + 1 + torch.rand(num_images, count, 2, generator=generator) ** 2 * 120], dim=-1)
    valid = torch.arange(count) < torch.tensor([[count], [count - 2]])
    return GroundTruth(boxes * valid[..., None], torch.zeros(num_images, count, dtype=torch.int64), valid)


def slow_centroid(gt: GroundTruth, where: Priors, num_points: int, cells: torch.Tensor | None) -> torch.Tensor:
    grid = where.grid
    result = torch.full((len(gt.boxes), grid.num_points), -1)
    for image, (boxes, valid) in enumerate(zip(gt.boxes, gt.valid, strict=True)):
        best = [math.inf] * grid.num_points
        for g in range(len(boxes)):
            if not valid[g]:
                continue
            x0, y0, x1, y1 = boxes[g].tolist()
            level = min(max(math.trunc(math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 4)) - 3, 0), 2)
            rows, columns = grid.sizes[level] if cells is None else cells[image, level].tolist()
            distances = []
            for row in range(rows):
                for column in range(columns):
                    x, y = (column + grid.offset) * grid.strides[level], (row + grid.offset) * grid.strides[level]
                    far = math.hypot((x - (x0 + x1) / 2) / (x1 - x0), (y - (y0 + y1) / 2) / (y1 - y0))
                    distances.append((far, grid.level_starts[level] + row * grid.sizes[level][1] + column))
            for far, place in sorted(distances)[:num_points]:
                if far < best[place]:
                    best[place], result[image, place] = far, g
    return result


@pytest.mark.parametrize("num_points", [1, 2, 5])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_centroid_is_what_the_slow_code_gives(num_points: int, offset: float, padded: bool, seed: int) -> None:
    gt, where = objects(seed=seed), priors(offset)
    cells = torch.tensor([[[12, 16], [6, 8], [3, 4]], [[8, 10], [4, 5], [2, 3]]]) if padded else None
    assignment = CentroidAssigner(num_points=num_points)(AssignContext(gt, where, valid_sizes=cells))
    assert torch.equal(assignment.gt_index, slow_centroid(gt, where, num_points, cells))
    assert (assignment.ignore is not None) == padded
    assert (assignment.gt_index >= 0).sum(1).max() <= CentroidAssigner(num_points=num_points).max_positives(6, where)


def test_a_contested_location_goes_to_the_nearer_object_then_to_the_first() -> None:
    boxes = torch.tensor([[[20.0, 20, 44, 44], [18.0, 18, 46, 46], [18.0, 18, 46, 46], [15.0, 17, 45, 47]]])
    gt = GroundTruth(boxes, torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool))
    found = CentroidAssigner()(AssignContext(gt, priors())).gt_index
    assert found[found >= 0].tolist() == [0]


def test_the_level_of_an_object() -> None:
    """The whole part of log2(side / 4): a side of 4 * 2 ** 4 is the first of the second level, of stride 16."""
    sides = [7.9, 16.0, 63.9, 64.0, 90.0, 127.9, 128.0, 500.0]
    boxes = torch.tensor([[[0.0, 0.0, side, side]] for side in sides])
    shape = boxes.shape[:2]
    gt = GroundTruth(boxes, torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool))
    (image, prior) = (CentroidAssigner()(AssignContext(gt, priors())).gt_index >= 0).nonzero(as_tuple=True)
    assert image.tolist() == list(range(len(sides)))
    assert priors().levels_of(prior).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def slow_middle(corners: np.ndarray) -> np.ndarray:
    """The mean of all points of a fine raster that lie inside a convex polygon."""
    low, high = corners.min(0), corners.max(0)
    x, y = np.meshgrid(*(np.linspace(a, b, 800) for a, b in zip(low, high, strict=True)))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    sides = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along, to = end - start, points - start
        sides.append(along[0] * to[:, 1] - along[1] * to[:, 0])
    inside = np.all(np.array(sides) >= 0, axis=0) | np.all(np.array(sides) <= 0, axis=0)
    return points[inside].mean(0)


def test_the_centroid_of_the_extreme_points() -> None:
    """The object goes to the location nearest to the centroid of the quadrilateral, which is far from the middle of its box."""
    corners = np.array([[[8.0, 6.0], [6.0, 50.0], [50.0, 62.0], [62.0, 58.0]], [[60.0, 6.0], [6.0, 8.0], [8.0, 62.0], [62.0, 10.0]]])
    boxes = torch.tensor([[[c[:, 0].min(), c[:, 1].min(), c[:, 0].max(), c[:, 1].max()] for c in corners]]).float().transpose(0, 1)
    landmarks = torch.cat([torch.tensor(corners), torch.ones(2, 4, 1)], dim=-1).float()[:, None]
    gt = GroundTruth(boxes, torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool), landmarks)
    where = priors()
    found = (CentroidAssigner(scale=100.0, middle="centroid")(AssignContext(gt, where)).gt_index >= 0).nonzero()
    assert found[:, 0].tolist() == [0, 1]
    for (_, prior), points, box in zip(found.tolist(), corners, boxes[:, 0], strict=True):
        middle = slow_middle(points)
        assert np.abs(where.points[prior].numpy() - middle).max() <= 4.1
        assert np.abs(box.view(2, 2).mean(0).numpy() - middle).max() > 5


def test_no_objects() -> None:
    nobody = GroundTruth(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    for assigner in (CentroidAssigner(), PredictedATSSAssigner()):
        boxes = priors().boxes.expand(2, -1, -1)
        context = AssignContext(nobody, priors(), predictions=Predictions(boxes[..., :0], boxes))
        assert (assigner(context).gt_index == -1).all()


@pytest.mark.parametrize("padded", [False, True])
def test_atss_on_boxes_that_are_the_anchors_is_atss(padded: bool) -> None:
    gt, where = objects(seed=3), priors(0.5)
    cells = torch.tensor([[[12, 16], [6, 8], [3, 4]], [[8, 10], [4, 5], [2, 3]]]) if padded else None
    expected = ATSSAssigner()(AssignContext(gt, where, valid_sizes=cells)).gt_index
    anchors = where.boxes.expand(2, -1, -1)
    context = AssignContext(gt, where, predictions=Predictions(anchors[..., :0], anchors), valid_sizes=cells)
    assert (expected >= 0).any()
    assert torch.equal(PredictedATSSAssigner()(context).gt_index, expected)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="middle must be"):
        CentroidAssigner(middle="left")
    with pytest.raises(ValueError, match="num_points must be"):
        CentroidAssigner(num_points=0)
    with pytest.raises(ValueError, match="extreme points"):
        CentroidAssigner(middle="centroid")(AssignContext(objects(), priors()))
