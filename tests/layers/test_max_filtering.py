"""3D max filtering against torch's own pooling of a stack of levels, as the published code has it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from detkit.layers import MaxFiltering3d

SHAPES = [(12, 20), (6, 10), (3, 5), (2, 3)]


def features(channels: int = 32) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *shape, generator=rng) for shape in SHAPES]


def by_pooling_a_stack(layer: MaxFiltering3d, given: list[Tensor]) -> list[Tensor]:
    made, reach, found = [layer.conv(x) for x in given], layer.levels // 2, []
    for level, x in enumerate(given):
        near = range(max(level - reach, 0), min(level + reach + 1, len(given)))
        stack = torch.stack([F.interpolate(made[k], size=x.shape[2:], mode="bilinear") if k != level else made[k] for k in near], dim=2)
        window, padding = (2 * reach + 1, layer.size, layer.size), (reach, layer.size // 2, layer.size // 2)
        pooled = F.max_pool3d(stack, window, stride=1, padding=padding)[:, :, level - near[0]]
        found.append(F.relu(layer.norm(pooled + x) if layer.norm is not None else pooled + x))
    return found


@pytest.mark.parametrize(("size", "levels", "norm"), [(3, 2, "GN"), (5, 4, ""), (1, 0, ""), (3, 0, "GN"), (1, 2, "")])
def test_equals_the_pooling_of_a_stack(size: int, levels: int, norm: str) -> None:
    torch.manual_seed(0)
    layer = MaxFiltering3d(32, size=size, levels=levels, norm=norm)
    torch.nn.init.normal_(layer.conv.weight, std=0.1)
    expected, found = by_pooling_a_stack(layer, features()), layer(features())
    assert [x.shape for x in found] == [(2, 32, *shape) for shape in SHAPES]
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


def test_a_peak_is_seen_on_the_next_levels_and_no_farther() -> None:
    layer = MaxFiltering3d(1, size=3, levels=2, norm="")
    torch.nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[0, 0, 1, 1] = 1.0
    quiet = [torch.zeros(1, 1, *shape) for shape in SHAPES]
    quiet[1][0, 0, 3, 4] = 1.0
    reached = [x[0, 0] for x in layer(quiet)]
    assert reached[1][3, 4] == 2 and reached[1][2, 3] == 1 and reached[1][1, 4] == 0  # itself, in its window, beyond it
    assert reached[0].amax() > 0.5 and reached[0][:4].amax() == 0 and reached[2].amax() > 0 and reached[3].amax() == 0


def test_gradients_reach_the_largest_alone() -> None:
    layer, given = MaxFiltering3d(32, norm=""), [x.requires_grad_() for x in features()]
    layer(given)[3].sum().backward()
    assert given[0].grad is None or not given[0].grad.any()
    assert given[3].grad.any() and given[2].grad.any()


def test_what_has_no_middle_or_mixes_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a middle"):
        MaxFiltering3d(32, size=2)
    with pytest.raises(ValueError, match="needs a middle"):
        MaxFiltering3d(32, levels=1)
    with pytest.raises(ValueError, match="takes the norm 'GN' or '', not 'BN'"):
        MaxFiltering3d(32, norm="BN")
