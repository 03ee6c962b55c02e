"""Layers that several heads are made of."""

from .batch_norm import FixedStatisticsBatchNorm, train_affine
from .deform import DeformConv2d, DeformConv2dPack, deform_conv2d
from .sampling import sample_channels
from .scale import Scale
from .towers import ConvTower, conv_tower, init_conv

__all__ = [
    "ConvTower",
    "DeformConv2d",
    "DeformConv2dPack",
    "FixedStatisticsBatchNorm",
    "Scale",
    "conv_tower",
    "deform_conv2d",
    "init_conv",
    "sample_channels",
    "train_affine",
]
