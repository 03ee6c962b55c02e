"""Corner point verification: pooling, targets, snapping."""

from __future__ import annotations

import math

import pytest
import torch

from detkit.geometry import Grid
from detkit.layers import Tower
from detkit.structures import GroundTruth
from lsnet.corner_targets import class_weights, corner_targets, gaussian_radius
from lsnet.corners import (
    CornerCriterion,
    CornerMaps,
    CornerVerification,
    gaussian_focal_loss,
    snap_corners,
)

TOWER = Tower(num_convs=0, channels=8, norm="")
GRID = Grid(((8, 10), (4, 5), (2, 3)), (8, 16, 32), 0.0, torch.device("cpu"))


def one_object(box: list[float], label: int = 1) -> GroundTruth:
    return GroundTruth(torch.tensor([[box]]), torch.tensor([[label]]), torch.ones(1, 1, dtype=torch.bool))


def test_corner_pooling_sees_along_both_sides() -> None:
    torch.manual_seed(0)
    pool = CornerVerification(tower=TOWER, num_classes=2, pooled_channels=4).pools["tl"]
    x = torch.zeros(1, 1, 4, 5)
    x[0, 0, 2, 3] = 1.0
    downward, rightwards = pool._pool(x, 2), pool._pool(x, 3)
    assert (downward[0, 0, :3, 3] == 1).all() and downward.sum() == 3
    assert (rightwards[0, 0, 2, :4] == 1).all() and rightwards.sum() == 4


def test_corners_are_marked_on_every_level() -> None:
    gt = one_object([13.0, 21.0, 60.0, 50.0])
    heat, offsets, positive = corner_targets(gt.boxes[..., :2], gt, GRID, None)
    assert positive.nonzero()[:, 1].tolist() == [3 * 10 + 2, 80 + 1 * 5 + 1, 100 + 1 * 3 + 0]
    assert (heat[positive] == 1).all() and (heat[~positive] < 1).all()
    torch.testing.assert_close(offsets[positive], torch.tensor([[-0.375, -0.375], [-0.1875, 0.3125], [0.40625, -0.34375]]))
    radius = gaussian_radius(torch.tensor(47.0), torch.tensor(29.0), 0.7).item()
    neighbor = math.exp(-((16 - 13) ** 2 + (16 - 21) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2)) if 34 <= radius**2 else 0.0
    torch.testing.assert_close(heat[0, 2 * 10 + 2], torch.tensor(neighbor))


@pytest.mark.parametrize(("width", "height"), [(40.0, 24.0), (24.0, 24.0), (3.0, 400.0), (1000.0, 700.0)])
@pytest.mark.parametrize("least", [0.3, 0.7, 0.95])
def test_radius_keeps_the_overlap(width: float, height: float, least: float) -> None:
    r = gaussian_radius(torch.tensor(width, dtype=torch.float64), torch.tensor(height, dtype=torch.float64), least).item()
    area = width * height
    inside = (width - 2 * r) * (height - 2 * r) / area
    around = area / ((width + 2 * r) * (height + 2 * r))
    shifted = (width - r) * (height - r) / (2 * area - (width - r) * (height - r))
    assert min(inside, around, shifted) == pytest.approx(least, abs=1e-9)


def test_heat_ends_at_the_radius() -> None:
    gt = one_object([12.0, 20.0, 132.0, 120.0])  # the corner lies on a location of the finest level
    fine = Grid(((20, 20),), (8,), 0.5, torch.device("cpu"))
    heat = corner_targets(gt.boxes[..., :2], gt, fine, None).heat.view(20, 20)
    radius = gaussian_radius(torch.tensor(120.0), torch.tensor(100.0), 0.7).item()
    for row in range(20):
        for column in range(20):
            squared = (8 * column + 4 - 12.0) ** 2 + (8 * row + 4 - 20.0) ** 2
            expected = math.exp(-squared / (2 * ((2 * radius + 1) / 6) ** 2)) if squared <= radius**2 else 0.0
            assert heat[row, column].item() == pytest.approx(expected, abs=1e-6)
    assert 1 < (heat > 0).sum() < 20


def test_objects_fill_the_cells_they_touch() -> None:
    boxes = torch.tensor([[[4.0, 9.0, 17.0, 20.0], [0.0, 0.0, 50.0, 40.0], [0.0, 0.0, 0.0, 0.0]]])
    gt = GroundTruth(boxes, torch.tensor([[1, 1, 0]]), torch.tensor([[True, True, False]]))
    weights = class_weights(gt, 3, (8, 10), 8)
    assert weights.shape == (1, 3, 8, 10) and not weights[0, [0, 2]].any()
    torch.testing.assert_close(weights[0, 1, 1:3, :3], torch.full((2, 3), 1 / (13 * 11)))
    torch.testing.assert_close(weights[0, 1, 0, :7], torch.full((7,), 1 / 2000))
    assert not weights[0, 1, 6:].any() and not weights[0, 1, :, 7:].any()


def test_focal_loss_of_corners() -> None:
    logits, heat = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.0])
    p = logits.sigmoid()
    expected = torch.stack([-p[0].log() * (1 - p[0]) ** 2, -(1 - p[1]).log() * p[1] ** 2 * 0.5**4, -(1 - p[2]).log() * p[2] ** 2])
    torch.testing.assert_close(gaussian_focal_loss(logits, heat), expected)


def test_losses_of_images_without_objects_are_finite() -> None:
    torch.manual_seed(0)
    verification = CornerVerification(tower=TOWER, num_classes=2, pooled_channels=4)
    corners = [verification(torch.randn(1, 8, *size), torch.randn(1, 8, *size))[2] for size in GRID.sizes]
    nobody = GroundTruth(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool))
    losses = CornerCriterion(num_classes=2)(corners, nobody, GRID, None, None)
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_offset"] == 0


def test_corners_snap_to_the_hottest_of_four_cells() -> None:
    heat, offsets = torch.zeros(1, 2, 8, 10), torch.zeros(1, 4, 8, 10)
    heat[0, 0, 3, 2], heat[0, 1, 5, 7] = 5.0, 5.0
    offsets[0, :2, 3, 2], offsets[0, 2:, 5, 7] = torch.tensor([0.25, -0.5]), torch.tensor([0.0, 0.125])
    maps = CornerMaps(heat, offsets, torch.zeros(1, 1, 8, 10))
    coarse = [CornerMaps(torch.zeros(1, 2, h, w), torch.zeros(1, 4, h, w), torch.zeros(1, 1, h, w)) for h, w in GRID.sizes[1:]]
    boxes = torch.tensor([13.0, 25.0, 60.0, 43.0]).expand(1, GRID.num_points, 4)
    moved = snap_corners(boxes, [maps, *coarse], GRID)
    torch.testing.assert_close(moved[:, :80], boxes[:, :80])
    torch.testing.assert_close(moved[0, 80:], torch.tensor([18.0, 20.0, 56.0, 41.0]).expand(26, 4))
