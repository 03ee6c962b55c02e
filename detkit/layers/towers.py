"""Stacks of convolutions that dense heads share across pyramid levels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn.functional import relu

from .deform import DeformConv2dPack

__all__ = ["ConvTower", "Tower", "init_conv"]

#: norms whose statistics come from the batch; levels of a pyramid differ in them, so that each has a norm of its own
BATCH_NORMS = ("BN", "SyncBN")


class ConvTower(nn.Sequential):
    """Layers that the levels of a pyramid share; each level may have norms of its own."""

    def forward(self, feature: Tensor, level: int = 0) -> Tensor:
        """What the layers make of a level's feature (B, C, H, W). ``level``: its position in the pyramid, from fine to coarse."""
        for layer in self:
            feature = layer(feature, level) if isinstance(layer, _ConvWithLevelNorms) else layer(feature)
        return feature


class _ConvWithLevelNorms(nn.Conv2d):
    """A 3x3 convolution, the level's norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, *, bias: bool, norm: str, num_levels: int) -> None:
        super().__init__(in_channels, channels, kernel_size=3, padding=1, bias=bias)
        self.norm = nn.ModuleList(get_norm(norm, channels) for _ in range(num_levels))

    def forward(self, feature: Tensor, level: int) -> Tensor:  # type: ignore[override]
        return relu(self.norm[level](super().forward(feature)))


@dataclass(frozen=True)
class Tower:
    """Describes a stack of 3x3 convolutions with norm and ReLU, at constant resolution. A head builds as many as it needs.

    Example::

        >>> tower = Tower(channels=64, num_convs=4)
        >>> cls_tower, box_tower = tower.build(256), tower.build(256)
        >>> cls_tower(torch.rand(2, 256, 8, 12)).shape
        torch.Size([2, 64, 8, 12])

    Attributes:
        channels: width of every layer.
        num_convs: depth, 0 or more; FCOS, ATSS and DW have 4.
        norm: a Detectron2 norm name, ``"GN"`` (32 groups, so ``channels`` must be divisible by 32) or ``""`` for none. ``"BN"`` and
            ``"SyncBN"``: one for each level (AdelaiDet's real-time FCOS, Detectron2's RetinaNet).
        bias: whether the convolutions have one (the official codes do, mmdetection's plain FCOS and ATSS do not).
        deformable: numbers of the convolutions that are deformable with masks: the last one in the "DCN" models of FCOS and ATSS.
        offset_groups: of these, see :class:`detkit.layers.DeformConv2dPack`.
    """

    channels: int = 256
    num_convs: int = 4
    norm: str = "GN"
    bias: bool = True
    deformable: Collection[int] = ()
    offset_groups: int = 1

    def __post_init__(self) -> None:
        if self.norm == "GN" and self.channels % 32:
            raise ValueError(f"GroupNorm with 32 groups needs a number of channels divisible by 32, not {self.channels}.")
        if not all(0 <= number < self.num_convs for number in self.deformable):
            raise ValueError(f"The tower has {self.num_convs} convolutions, but {list(self.deformable)} are to be deformable.")
        if self.norm in BATCH_NORMS and self.deformable:
            raise ValueError(f"A tower with deformable convolutions takes the norm 'GN' or '', not '{self.norm}'.")

    def build(self, in_channels: int, num_levels: int = 1) -> ConvTower:
        """The layers, for features of this width. ``num_levels``: of the pyramid; counts for batch norms alone."""
        widths = [in_channels, *[self.channels] * self.num_convs]
        return ConvTower(*(self._layer(number, width, num_levels) for number, width in enumerate(widths[:-1])))

    def out_channels(self, in_channels: int) -> int:
        """Width of the output, which without convolutions is that of the input."""
        return self.channels if self.num_convs else in_channels

    def _layer(self, number: int, width: int, num_levels: int) -> nn.Module:
        conv: nn.Conv2d | DeformConv2dPack
        activation = nn.ReLU(inplace=True)
        if number in self.deformable:
            conv = DeformConv2dPack(
                width,
                self.channels,
                3,
                padding=1,
                bias=self.bias,
                offset_groups=self.offset_groups,
                norm=self.norm,
                activation=activation,
            )
        elif self.norm in BATCH_NORMS:
            conv = _ConvWithLevelNorms(width, self.channels, bias=self.bias, norm=self.norm, num_levels=num_levels)
        else:
            norm = get_norm(self.norm, self.channels)
            conv = Conv2d(width, self.channels, kernel_size=3, padding=1, bias=self.bias, norm=norm, activation=activation)
        init_conv(conv)
        return conv


def init_conv(conv: nn.Conv2d, *, bias: float = 0.0) -> None:
    """Normal weights of standard deviation 0.01 (RetinaNet, section 4.1) and a constant bias."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
