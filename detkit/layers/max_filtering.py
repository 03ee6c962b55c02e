"""Maxima over neighboring cells of a level and of the next ones (DeFCN, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .towers import init_conv

__all__ = ["MaxFiltering3d"]


class MaxFiltering3d(nn.Module):
    """3D max filtering (Wang et al., End-to-End Object Detection with Fully Convolutional Network, CVPR 2021, equations 5 and 6): every
    cell takes the largest value of its window on its own level and, resized to it, on its neighbors; the features themselves are added.

    As in the authors' code: one convolution for all levels before the maximum; norm and ReLU after the sum.

    Args:
        channels: C.
        size: side of the window in cells, odd (the paper's phi, 3).
        levels: spanned beside the own one, even (the paper's tau, 2: one finer, one coarser).
        norm: ``"GN"``, or ``""`` for none: all levels share it.
    """

    def __init__(self, channels: int, *, size: int = 3, levels: int = 2, norm: str = "GN") -> None:
        super().__init__()
        if size % 2 == 0 or levels % 2:
            raise ValueError(f"The window needs a middle: an odd size and an even number of further levels, not {size} and {levels}.")
        if norm not in ("", "GN"):
            raise ValueError(f"3D max filtering takes the norm 'GN' or '', not '{norm}': all levels share it.")
        self.size = size
        self.levels = levels
        self.conv = Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = get_norm(norm, channels)
        init_conv(self.conv)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Filtered features (B, C, H, W) of every level, of features from fine to coarse."""
        made = [self.conv(feature) for feature in features]
        reach, filtered = self.levels // 2, []
        for level, feature in enumerate(features):
            largest = made[level]
            for other in made[max(level - reach, 0) : level] + made[level + 1 : level + reach + 1]:
                largest = torch.maximum(largest, F.interpolate(other, size=feature.shape[-2:], mode="bilinear"))
            x = feature + F.max_pool2d(largest, self.size, stride=1, padding=self.size // 2)
            filtered.append(F.relu(x if self.norm is None else self.norm(x)))
        return filtered
