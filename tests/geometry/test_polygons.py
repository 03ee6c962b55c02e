from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures.masks import polygons_to_bitmask
from torch import Tensor

from detkit.geometry import fill_polygons, polygons


@pytest.fixture(autouse=True, params=["_fill_spans", "_fill_by_parity"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(polygons, "_fill_spans", getattr(polygons, request.param))


def random_polygons(count: int = 20, vertices: int = 12, seed: int = 0) -> Tensor:
    """Stars of all sizes, in part outside an image of 60 x 80."""
    rng = torch.Generator().manual_seed(seed)
    angles = torch.linspace(0, 2 * torch.pi, vertices + 1)[:-1]
    radii = (4 + 30 * torch.rand(count, 1, generator=rng)) * (0.5 + 0.5 * torch.rand(count, vertices, generator=rng))
    centers = torch.rand(count, 1, 2, generator=rng) * torch.tensor([80.0, 60.0])
    return centers + radii[..., None] * torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_pixels_are_inside_if_their_centers_are() -> None:
    stars = random_polygons()
    filled = fill_polygons(stars, 60, 80)
    x, y = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    for polygon, mask in zip(stars.numpy(), filled, strict=True):  # slow and obvious: count the edges to the left of each center
        inside = np.zeros((60, 80), bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            crosses = (y0 <= y) != (y1 <= y)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
        assert (mask.numpy() != inside).sum() <= 1  # rounding at a border


def test_agrees_with_cocos_tools() -> None:
    stars = random_polygons(seed=1)
    filled = fill_polygons(stars, 60, 80)
    expected = torch.stack([torch.from_numpy(polygons_to_bitmask([p.ravel().double().numpy()], 60, 80)) for p in stars])
    union = (filled | expected).flatten(1).sum(1)
    assert ((filled & expected).flatten(1).sum(1) / union.clamp(min=1))[union > 0].min() > 0.9
    assert (filled != expected).sum() / union.sum() < 0.02


def test_rows_that_end_at_the_border_do_not_run_into_the_next() -> None:
    whole = torch.tensor([[[-5.0, -5.0], [-5.0, 9.0], [9.0, 9.0], [9.0, -5.0]]])
    assert fill_polygons(whole, 4, 3).all()
    right = torch.tensor([[[1.0, 1.0], [1.0, 3.0], [9.0, 3.0], [9.0, 1.0]]])
    assert fill_polygons(right, 4, 3)[0].int().tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]]


def test_nothing_to_fill() -> None:
    assert fill_polygons(torch.zeros(0, 5, 2), 4, 3).shape == (0, 4, 3)
    points_and_outside = torch.stack([torch.ones(5, 2), torch.full((5, 2), -7.0)])
    assert not fill_polygons(points_and_outside, 4, 3).any()
