"""Layers that several heads are made of."""

from .deform import DeformConv2dPack, deform_conv2d
from .sampling import sample_channels
from .scale import Scale
from .towers import Tower, init_conv

__all__ = ["DeformConv2dPack", "Scale", "Tower", "deform_conv2d", "init_conv", "sample_channels"]
