"""Stacks of convolutions that dense heads share across pyramid levels."""

from __future__ import annotations

from detectron2.layers import Conv2d, get_norm
from torch import nn

from .deform import DeformConv2dPack

__all__ = ["conv_tower", "init_conv"]


def conv_tower(
    in_channels: int, channels: int, *, num_convs: int, norm: str = "GN", bias: bool = True, num_deformable: int = 0, offset_groups: int = 1
) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, norm, ReLU, at constant resolution.

    Example::

        >>> tower = conv_tower(256, 64, num_convs=4)
        >>> tower(torch.rand(2, 256, 8, 12)).shape
        torch.Size([2, 64, 8, 12])

    Args:
        in_channels, channels: width of the input and of every layer.
        num_convs: depth, 0 or more; FCOS, ATSS and DW have 4.
        norm: a Detectron2 norm name, ``"GN"`` (32 groups, so ``channels`` must be divisible by 32) or ``""`` for none.
        bias: whether the convolutions have one (the official codes do, mmdetection's plain FCOS and ATSS do not).
        num_deformable: how many of the last convolutions are deformable with masks: 1 in the "DCN" models of FCOS and ATSS.
        offset_groups: of these, see :class:`detkit.layers.DeformConv2dPack`.
    """
    if norm == "GN" and channels % 32:
        raise ValueError(f"GroupNorm with 32 groups needs a number of channels divisible by 32, not {channels}.")
    layers: list[nn.Module] = []
    for i in range(num_convs):
        width = in_channels if i == 0 else channels
        activation = nn.ReLU(inplace=True)
        conv: Conv2d | DeformConv2dPack
        if i < num_convs - num_deformable:
            conv = Conv2d(width, channels, kernel_size=3, padding=1, bias=bias, norm=get_norm(norm, channels), activation=activation)
        else:
            conv = DeformConv2dPack(width, channels, 3, padding=1, bias=bias, offset_groups=offset_groups, norm=norm, activation=activation)
        init_conv(conv)
        layers.append(conv)
    return nn.Sequential(*layers)


def init_conv(conv: nn.Conv2d, *, bias: float = 0.0) -> None:
    """Normal weights of standard deviation 0.01 (RetinaNet, section 4.1) and a constant bias."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
