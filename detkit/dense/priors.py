"""Where a dense detector predicts, made for every size of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detkit.geometry import Grid, Priors

__all__ = ["PriorGenerator"]


class PriorGenerator(nn.Module):
    """Makes the priors of a pyramid, on the device on which the generator lies.

    Args:
        strides: pixels per cell of each level, from fine to coarse.
        cell_anchors: per level (A, 4) anchors around a location, see :func:`detkit.geometry.square_anchors`; None: points, which are
            anchors without extent.
        offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.
        plus_one: 1 for weights trained with inclusive corners, see :class:`detkit.geometry.Priors`.
    """

    def __init__(
        self, *, strides: Sequence[int], cell_anchors: Sequence[Tensor] | None = None, offset: float = 0.5, plus_one: float = 0.0
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.offset = offset
        self.plus_one = plus_one
        for level, anchors in enumerate(cell_anchors or [torch.zeros(1, 4)] * len(self.strides)):
            self.register_buffer(f"cell_anchors{level}", anchors, persistent=False)  # beside the network, not copied at every step

    @property
    def cell_anchors(self) -> tuple[Tensor, ...]:
        """Per level (A, 4) anchors around a location."""
        return tuple(self.get_buffer(f"cell_anchors{level}") for level in range(len(self.strides)))

    @property
    def anchors_per_point(self) -> int:
        """A."""
        return len(self.get_buffer("cell_anchors0"))

    def forward(self, level_sizes: Sequence[tuple[int, int]]) -> Priors:
        """The priors of a pyramid of these (height, width)."""
        anchors = self.cell_anchors
        return Priors(Grid(tuple(level_sizes), self.strides, self.offset, anchors[0].device), anchors, self.plus_one)

    def for_image(self, image_size: tuple[int, int], size_divisibility: int) -> Priors:
        """The priors of an image of (height, width) pixels that is padded to multiples of ``size_divisibility``."""
        height, width = (math.ceil(side / size_divisibility) * size_divisibility for side in image_size)
        return self([(math.ceil(height / stride), math.ceil(width / stride)) for stride in self.strides])
