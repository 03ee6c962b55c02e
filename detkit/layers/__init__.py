"""Layers and operators that several heads and detectors are made of."""

from .batch_norm import FixedStatisticsBatchNorm, train_affine
from .deform import DeformConv2dPack, deform_conv2d
from .nms import nms_mask, nms_mask_by_offsets
from .ranking import ABSENT, best_indices, gather_rows
from .sampling import sample_channels
from .scale import Scale
from .towers import ConvTower, Tower, init_conv

__all__ = [
    "ABSENT",
    "ConvTower",
    "DeformConv2dPack",
    "FixedStatisticsBatchNorm",
    "Scale",
    "Tower",
    "best_indices",
    "deform_conv2d",
    "gather_rows",
    "init_conv",
    "nms_mask",
    "nms_mask_by_offsets",
    "sample_channels",
    "train_affine",
]
