"""Candidates among predictions, against all distances."""

from __future__ import annotations

import pytest
import torch

from detkit.assigners.predicted_atss import MANY, nearest_predictions
from detkit.geometry import Grid, Priors

GRID = Grid(((48, 50), (24, 25), (2, 3)), (8, 16, 128), 0.0, torch.device("cpu"))


@pytest.mark.parametrize("spread", ["around", "crowded", "far", "not a number"])
@pytest.mark.parametrize("num_gts", [0, 3, MANY + 6])
def test_the_nearest_are_found_wherever_predictions_lie(num_gts: int, spread: str) -> None:
    rng = torch.Generator().manual_seed(num_gts)
    priors = Priors(GRID, tuple(torch.zeros(1, 4) for _ in GRID.sizes))
    centers = priors.points + 12 * torch.randn(2, priors.num_priors, 2, generator=rng)
    gt = 400 * torch.rand(2, num_gts, 2, generator=rng)
    if spread == "crowded":  # most predictions of an image lie around one point
        centers[1, : GRID.num_points // 2] = 200 + torch.rand(GRID.num_points // 2, 2, generator=rng)
        gt[:, 1:] = 200 + torch.rand(2, max(num_gts - 1, 0), 2, generator=rng)
    if spread == "far":
        gt += 3000
    padding = torch.rand(2, priors.num_priors, generator=rng) < 0.3
    padding[0, GRID.level_starts[2] : -2] = True  # two of the coarsest level are left
    found = nearest_predictions(torch.cat([centers - 5, centers + 5], -1), torch.cat([gt - 9, gt + 9], -1), priors, 9, padding)
    assert found.prior_index.shape == found.valid.shape == (24, 2, num_gts)
    if not num_gts:
        return
    if spread == "not a number":  # nothing breaks
        centers[0, ::7] = torch.nan
        broken = nearest_predictions(torch.cat([centers] * 2, -1), torch.cat([gt] * 2, -1), priors, 9, padding)
        assert ((broken.prior_index >= 0) & (broken.prior_index < priors.num_priors)).all()
        return
    distances = (centers[:, None] - gt[:, :, None]).double().square().sum(-1).masked_fill(padding[:, None], torch.inf)
    expected = [level.topk(min(9, level.shape[2]), largest=False).values for level in distances.split(priors.per_level, dim=2)]
    actual = distances.gather(2, found.prior_index.permute(1, 2, 0))
    sizes = [9, 9, 6]
    for ours, wanted, valid in zip(actual.split(sizes, 2), expected, found.valid.permute(1, 2, 0).split(sizes, 2), strict=True):
        assert torch.equal(valid, wanted.isfinite())
        torch.testing.assert_close(ours.masked_fill(~valid, torch.inf).sort(-1).values, wanted.sort(-1).values, rtol=1e-5, atol=1e-3)
