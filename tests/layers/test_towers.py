"""Towers of convolutions, with norms that levels share or have of their own."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

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


def test_each_level_has_its_own_batch_norms() -> None:
    torch.manual_seed(0)
    tower = Tower(num_convs=2, channels=8, norm="BN").build(4, num_levels=3).eval()
    for layer in tower:
        layer.norm[1].running_mean += 0.5
    image = torch.rand(1, 4, 6, 6)
    assert_close(tower(image, 0), tower(image, 2))
    assert not torch.equal(tower(image, 0), tower(image, 1))
    expected = image
    for layer in tower:
        expected = torch.relu(layer.norm[1](torch.nn.functional.conv2d(expected, layer.weight, layer.bias, padding=1)))
    assert_close(tower(image, 1), expected)


def test_group_norms_are_shared() -> None:
    tower = Tower(num_convs=1, channels=32).build(32, num_levels=3).eval()
    image = torch.rand(1, 32, 6, 6)
    assert_close(tower(image, 0), tower(image, 2))
    assert {name for name in tower.state_dict() if "norm" in name} == {"0.norm.weight", "0.norm.bias"}


def test_training_of_a_level_leaves_the_others_statistics() -> None:
    tower = Tower(num_convs=1, channels=4, norm="SyncBN").build(4, num_levels=2)
    before = tower[0].norm[0].running_mean.clone()
    tower(torch.rand(2, 4, 6, 6), 1)
    assert_close(tower[0].norm[0].running_mean, before)
    assert not torch.equal(tower[0].norm[1].running_mean, before)


def test_batch_norms_with_deformable_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="deformable"):
        Tower(num_convs=1, channels=4, norm="BN", deformable=[0])
