"""Stacks of convolutions that dense heads share across pyramid levels."""

from __future__ import annotations

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn.functional import relu

from .deform import DeformConv2dPack

__all__ = ["ConvTower", "conv_tower", "init_conv"]

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


def conv_tower(
    in_channels: int,
    channels: int,
    *,
    num_convs: int,
    norm: str = "GN",
    bias: bool = True,
    num_deformable: int = 0,
    offset_groups: int = 1,
    num_levels: int = 1,
) -> ConvTower:
    """``num_convs`` times 3x3 convolution, norm, ReLU, at constant resolution.

    Args:
        in_channels, channels: width of the input and of every layer.
        num_convs: depth, 0 or more; FCOS, ATSS and DW have 4.
        norm: a Detectron2 norm name, ``"GN"`` (32 groups, so ``channels`` must be divisible by 32) or ``""`` for none. ``"BN"`` and
            ``"SyncBN"``: one for each level (AdelaiDet's real-time FCOS, Detectron2's RetinaNet).
        bias: whether the convolutions have one (the official codes do, mmdetection's plain FCOS and ATSS do not).
        num_deformable: how many of the last convolutions are deformable with masks: 1 in the "DCN" models of FCOS and ATSS.
        offset_groups: of these, see :class:`detkit.layers.DeformConv2dPack`.
        num_levels: of the pyramid; counts for batch norms alone.

    Raises:
        ValueError: channels that GroupNorm cannot divide, or batch norms in a tower with deformable convolutions.
    """
    if norm == "GN" and channels % 32:
        raise ValueError(f"GroupNorm with 32 groups needs a number of channels divisible by 32, not {channels}.")
    if norm in BATCH_NORMS and num_deformable:
        raise ValueError(f"A tower with deformable convolutions takes the norm 'GN' or '', not '{norm}'.")
    layers: list[nn.Module] = []
    for i in range(num_convs):
        width = in_channels if i == 0 else channels
        activation = nn.ReLU(inplace=True)
        conv: nn.Conv2d | DeformConv2dPack
        if norm in BATCH_NORMS:
            conv = _ConvWithLevelNorms(width, channels, bias=bias, norm=norm, num_levels=num_levels)
        elif i < num_convs - num_deformable:
            conv = Conv2d(width, channels, kernel_size=3, padding=1, bias=bias, norm=get_norm(norm, channels), activation=activation)
        else:
            conv = DeformConv2dPack(width, channels, 3, padding=1, bias=bias, offset_groups=offset_groups, norm=norm, activation=activation)
        init_conv(conv)
        layers.append(conv)
    return ConvTower(*layers)


def init_conv(conv: nn.Conv2d, *, bias: float = 0.0) -> None:
    """Normal weights of standard deviation 0.01 (RetinaNet, section 4.1) and a constant bias."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
