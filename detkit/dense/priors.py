"""Where a dense detector predicts, made for every size of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.geometry import Grid, Priors
from detkit.host import remember

__all__ = ["PriorGenerator"]

#: pyramids whose priors are kept, about a megabyte each
MAX_KEPT = 16


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
        self._kept: dict[tuple[Any, ...], Priors] = {}
        cell_anchors = list(cell_anchors or [torch.zeros(1, 4) for _ in self.strides])  # TorchScript takes no shared ones
        self._on_host = [None if x.is_meta else x.numpy(force=True) for x in cell_anchors]
        for level, anchors in enumerate(cell_anchors):
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
        """The priors of a pyramid of these (height, width). Those of the last pyramids are kept with all that was computed of them."""
        anchors, sizes = self.cell_anchors, tuple(level_sizes)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._make(sizes, anchors)
        key = (sizes, torch.is_inference_mode_enabled())
        priors = self._kept.pop(key, None)
        if priors is None or any(a is not b for a, b in zip(priors.cell_anchors, anchors, strict=True)):
            for anchor, values in zip(anchors, self._on_host, strict=True):
                if values is not None and anchor.dtype == torch.float32:
                    remember(anchor, values)  # an assigner may compare boxes on the host
            priors = self._make(sizes, anchors)
        self._kept[key] = priors  # the last one used is the last one in the dictionary
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return priors

    def _make(self, sizes: tuple[tuple[int, int], ...], anchors: tuple[Tensor, ...]) -> Priors:
        return Priors(Grid(sizes, self.strides, self.offset, anchors[0].device), anchors, self.plus_one)

    def for_image(self, image_size: tuple[int, int], size_divisibility: int) -> Priors:
        """The priors of an image of (height, width) pixels that is padded to multiples of ``size_divisibility``."""
        height, width = (math.ceil(side / size_divisibility) * size_divisibility for side in image_size)
        return self([(math.ceil(height / stride), math.ceil(width / stride)) for stride in self.strides])
