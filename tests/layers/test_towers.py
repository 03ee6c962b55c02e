"""Towers of convolutions, with norms that levels share or have of their own."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.layers import conv_tower


def test_each_level_has_its_own_batch_norms() -> None:
    torch.manual_seed(0)
    tower = conv_tower(4, 8, num_convs=2, norm="BN", num_levels=3).eval()
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
    tower = conv_tower(32, 32, num_convs=1, num_levels=3).eval()
    image = torch.rand(1, 32, 6, 6)
    assert_close(tower(image, 0), tower(image, 2))
    assert {name for name in tower.state_dict() if "norm" in name} == {"0.norm.weight", "0.norm.bias"}


def test_training_of_a_level_leaves_the_others_statistics() -> None:
    tower = conv_tower(4, 4, num_convs=1, norm="SyncBN", num_levels=2)
    before = tower[0].norm[0].running_mean.clone()
    tower(torch.rand(2, 4, 6, 6), 1)
    assert_close(tower[0].norm[0].running_mean, before)
    assert not torch.equal(tower[0].norm[1].running_mean, before)


def test_batch_norms_with_deformable_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="deformable"):
        conv_tower(4, 4, num_convs=1, norm="BN", num_deformable=1)
