"""Deformable convolutions (Dai et al., ICCV 2017; modulated: Zhu et al., CVPR 2019) on torchvision's operator, for CPU and GPU.

Channels of offsets are ordered group, kernel point (row by row), then (y, x): channel ``2 * (g * kh * kw + k)`` moves point k of
group g down, the next one to the right, in pixels of the input. Channels of masks are ordered group, kernel point. That is the order of
torchvision, mmcv, Detectron2 and maskrcnn-benchmark, whose offset layers give both at once, all offsets before all masks.
"""

from __future__ import annotations

import torch
import torchvision
from detectron2.layers import get_norm
from torch import Tensor, nn

__all__ = ["DeformConv2dPack", "deform_conv2d"]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Convolution whose kernel points are moved by given offsets, sampled bilinearly with zeros outside the map.

    Computed in float32 where x has half precision, under autocast too: the operator takes one dtype only, and positions need the bits.

    Args:
        x: (B, C, H, W).
        offset: (B, 2*G*kh*kw, H', W') in pixels of x, in the order of this module; H', W' are those of the output.
        weight: (C', C / groups, kh, kw).
        bias: (C',).
        mask: (B, G*kh*kw, H', W'), factors of the samples; without it the convolution is not modulated.
        stride, padding, dilation: as for a convolution.

    Returns:
        (B, C', H', W') in the dtype of x.

    Raises:
        RuntimeError: shapes that do not fit each other.
    """
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        y = torchvision.ops.deform_conv2d(
            x.to(dtype),
            offset.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            stride=stride,
            padding=padding,
            dilation=dilation,
            mask=None if mask is None else mask.to(dtype),
        )
    return y.to(x.dtype)


class DeformConv2dPack(nn.Conv2d):
    """Deformable convolution that predicts its own offsets, and masks if modulated, by a convolution ``conv_offset`` that starts at zero.

    So it starts as the plain convolution, with all samples halved by the masks' sigmoid if it is modulated. State-dict keys are those of
    mmcv's layers of this name: ``weight``, ``bias``, ``conv_offset.weight``, ``conv_offset.bias`` (and ``norm``'s).

    Example::

        >>> layer = DeformConv2dPack(16, 32, kernel_size=3, padding=1)
        >>> layer(torch.rand(2, 16, 8, 12)).shape
        torch.Size([2, 32, 8, 12])

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as for a convolution.
        modulated: predict masks too (version 2).
        offset_groups: G, parts of the input's channels with offsets of their own.
        norm: a Detectron2 norm name, "" for none.
        activation: applied last.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        modulated: bool = True,
        offset_groups: int = 1,
        norm: str = "",
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.norm, self.activation = get_norm(norm, out_channels), activation
        self.modulated = modulated
        points = offset_groups * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset = nn.Conv2d(in_channels, (3 if modulated else 2) * points, kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        offset, mask = self.conv_offset(x), None
        if self.modulated:
            points = offset.shape[1] // 3
            offset, mask = offset.split((2 * points, points), dim=1)
            mask = mask.sigmoid()
        x = deform_conv2d(
            x,
            offset,
            self.weight,
            self.bias,
            mask=mask,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
        )
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, modulated: bool, offset_groups: int) -> DeformConv2dPack:
        """The deformable form of a convolution, with its weights, and its norm and activation if it has them (Detectron2's have)."""
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            modulated=modulated,
            offset_groups=offset_groups,
        ).to(conv.weight)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.norm, layer.activation = getattr(conv, "norm", None), getattr(conv, "activation", None)
        return layer
