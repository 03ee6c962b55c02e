"""Layers that several heads are made of."""

from .scale import Scale
from .towers import conv_tower, init_conv

__all__ = ["Scale", "conv_tower", "init_conv"]
