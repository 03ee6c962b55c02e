from __future__ import annotations

import pytest
import torch

from detkit.layers import DeformConv2dPack, Tower


def test_a_tower_builds_what_it_describes() -> None:
    tower = Tower(num_convs=3, channels=32, bias=False, deformable=[2])
    first, second = tower.build(8), tower.build(8)
    assert [isinstance(conv, DeformConv2dPack) for conv in first] == [False, False, True]
    assert first[0].bias is None and not torch.equal(first[0].weight, second[0].weight)
    assert first(torch.zeros(1, 8, 5, 6)).shape == (1, tower.out_channels(8), 5, 6)


def test_a_tower_of_no_convolutions_keeps_the_width() -> None:
    tower = Tower(num_convs=0, channels=32)
    x = torch.randn(1, 8, 5, 6)
    assert torch.equal(tower.build(8)(x), x) and tower.out_channels(8) == 8


def test_channels_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 32, not 40"):
        Tower(num_convs=1, channels=40).build(8)
