"""Batch norms as part of the convolutions before them."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.testing import assert_close
from torchvision.ops import Conv2dNormActivation
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from detkit.layers import ConstantBatchNorm, DeformConv2dPack, FixedStatisticsBatchNorm, fold_norms, foldable_norms


def with_statistics(norm: nn.Module) -> nn.Module:
    """The norm with random statistics and affine part."""
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.copy_(torch.rand(tensor.shape) + 0.5)
    return norm


def deformable(norm: nn.Module) -> nn.Module:
    layer = DeformConv2dPack(4, 6, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    layer.norm, layer.activation = norm, nn.ReLU()
    return layer


MAKERS = {
    "layer of Detectron2": lambda norm: Conv2d(4, 6, 3, stride=2, bias=False, norm=norm, activation=torch.relu),
    "deformable": deformable,
    "sequence": lambda norm: nn.Sequential(nn.Conv2d(4, 6, 1), norm, nn.ReLU()),
    "unit of torchvision": lambda norm: Conv2dNormActivation(4, 6, norm_layer=lambda channels: norm),
}
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, ConstantBatchNorm, TorchvisionFrozenBatchNorm2d, FixedStatisticsBatchNorm)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__.split('.')[0]}.{norm.__name__}")
def test_the_same_function_without_the_norm(kind, norm) -> None:
    torch.manual_seed(0)
    network = nn.ModuleList([MAKERS[kind](with_statistics(norm(6)))]).eval()
    x, before = torch.randn(2, 4, 7, 9), list(network.parameters())
    expected, state = network[0](x), copy.deepcopy(before)
    assert foldable_norms(network) == fold_norms(network) == 1 and not foldable_norms(network)
    assert_close(network[0](x), expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, norm) for module in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))  # others may share the tensors


def test_what_is_no_constant_per_channel_stays() -> None:
    shared = nn.Conv2d(4, 4, 1)

    class OwnNorm(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = nn.ModuleList(
        [
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
            nn.Sequential(nn.Conv2d(4, 4, 1), OwnNorm(4)),
            nn.Sequential(shared, nn.BatchNorm2d(4)),
            nn.Sequential(shared, nn.BatchNorm2d(4)),
            Conv2d(4, 4, 1, norm=nn.GroupNorm(2, 4)),
        ]
    )
    assert fold_norms(network) == foldable_norms(network) == 0
