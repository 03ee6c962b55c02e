"""Where a dense head predicts: the locations of a feature pyramid and the anchors on them.

Order of everything flattened over a pyramid, here and in the whole project: levels from fine to
coarse, within a level row by row, within a location anchor by anchor. ``P`` counts these entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.host import send

__all__ = ["ChosenPriors", "Grid", "Priors", "computed_once", "square_anchors"]


class computed_once:  # noqa: N801 - used as ``property`` is
    """A property that is computed at its first use. ``functools.cached_property`` takes a lock before Python 3.12, through which
    ``torch.compile`` and strict ``torch.export`` cannot look; while one of them traces, this one is an ordinary property."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if torch.compiler.is_compiling():
            return self.function(instance)
        value = instance.__dict__[self.name] = self.function(instance)
        return value


@dataclass(frozen=True)
class Grid:
    """The locations of a feature pyramid. Location (row, col) lies at ``((col + offset) * stride, (row + offset) * stride)``.

    Example::

        >>> grid = Grid(sizes=((8, 12), (4, 6)), strides=(8, 16), offset=0.5, device=torch.device("cpu"))
        >>> grid.num_points, grid.points[1].tolist()
        (120, [12.0, 4.0])

    Args:
        sizes: (height, width) of each level, in cells.
        strides: pixels of the input image per cell of each level.
        offset: position inside the cell: 0.5 for FCOS and the official ATSS (their ``i*s + s//2``), 0 for mmdetection's anchors.
        device: of the tensors made here.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    offset: float
    device: torch.device

    @property
    def num_levels(self) -> int:
        return len(self.sizes)

    @computed_once
    def level_starts(self) -> tuple[int, ...]:
        """Index of the first location of each level, and the total number of locations at the end."""
        starts = [0]
        for height, width in self.sizes:
            starts.append(starts[-1] + height * width)
        return tuple(starts)

    @property
    def num_points(self) -> int:
        return len(self.points) if "points" in self.__dict__ else self.level_starts[-1]  # one number of its own for compilers

    @computed_once
    def points(self) -> Tensor:
        """Locations of all levels as (x, y) in pixels, float32, shape (num_points, 2)."""
        return torch.cat([self.points_of_level(level) for level in range(self.num_levels)])

    def points_of_level(self, level: int) -> Tensor:
        (height, width), stride = self.sizes[level], self.strides[level]
        ys = (torch.arange(height, dtype=torch.float32, device=self.device) + self.offset) * stride
        xs = (torch.arange(width, dtype=torch.float32, device=self.device) + self.offset) * stride
        return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], dim=-1).reshape(-1, 2)

    @computed_once
    def point_strides(self) -> Tensor:
        """Stride of every location in pixels, float32, shape (num_points,)."""
        return torch.cat([torch.full((h * w,), float(s), device=self.device) for (h, w), s in zip(self.sizes, self.strides, strict=True)])

    def cells_within(self, image_sizes: Sequence[tuple[int, int]], divisor: int) -> Tensor:
        """Rows and columns of every level that belong to each image, padded for itself: (B, L, 2) int64.

        Args:
            image_sizes: (height, width) of every image in pixels.
            divisor: images are padded to multiples of it; 0 or 1 for no padding.
        """
        images = []
        for image_size in image_sizes:
            padded = [math.ceil(side / max(divisor, 1)) * max(divisor, 1) for side in image_size]
            images.append(
                [
                    [min(math.ceil(side / stride), cells) for side, cells in zip(padded, size, strict=True)]
                    for size, stride in zip(self.sizes, self.strides, strict=True)
                ]
            )
        return send(np.asarray(images, np.int64).reshape(-1, self.num_levels, 2), self.device)


@dataclass(frozen=True)
class Priors:
    """A grid and the ``A`` anchors that stand on each of its locations.

    Example::

        >>> grid = Grid(sizes=((8, 12), (4, 6)), strides=(8, 16), offset=0.5, device=torch.device("cpu"))
        >>> priors = Priors(grid, square_anchors(grid.strides))
        >>> priors.num_priors, priors.boxes[0].tolist()
        (120, [-28.0, -28.0, 36.0, 36.0])

    Args:
        grid: the locations.
        cell_anchors: per level, (A, 4) xyxy relative to the location, in pixels. A is the same on every level.
        plus_one: 1.0 where boxes follow the legacy inclusive-corner convention of maskrcnn-benchmark (a box from x0 to x1 is
            ``x1 - x0 + 1`` wide), as the weights of tianzhi0549/FCOS and sfzhang15/ATSS do; else 0.0.
    """

    grid: Grid
    cell_anchors: tuple[Tensor, ...]
    plus_one: float = 0.0

    @property
    def anchors_per_point(self) -> int:
        return self.cell_anchors[0].shape[0]

    @property
    def num_priors(self) -> int:
        return len(self.points) if "points" in self.__dict__ else self.grid.num_points * self.anchors_per_point

    def made(self) -> Priors:
        """Itself, with all that is computed once, so that a compiled part that is given it computes none of it."""
        for holder in (self.grid, self):
            for name, value in vars(type(holder)).items():
                if isinstance(value, computed_once):
                    getattr(holder, name)
        return self

    @property
    def per_level(self) -> tuple[int, ...]:
        """Number of priors on each level."""
        return tuple(height * width * self.anchors_per_point for height, width in self.grid.sizes)

    def levels_of(self, index: Tensor) -> Tensor:
        """Number of the level, int64, of priors given by their index in [0, P)."""
        return torch.bucketize(index, self.level_ends, right=True)

    def at(self, index: Tensor) -> ChosenPriors:
        """The priors with these numbers (...), int64 in [0, P)."""
        return ChosenPriors(self.points[index], self.strides[index], self.boxes[index], self.plus_one)

    @computed_once
    def level_ends(self) -> Tensor:
        """Index after the last prior of each level, (L,) int64."""
        return send(np.asarray(self.grid.level_starts[1:], np.int64) * self.anchors_per_point, self.grid.device)

    @computed_once
    def boxes(self) -> Tensor:
        """All anchors, xyxy in pixels, shape (P, 4)."""
        per_level = []
        for level, cells in enumerate(self.cell_anchors):
            points = self.grid.points_of_level(level).repeat(1, 2)
            per_level.append((points[:, None] + cells.to(points)[None]).reshape(-1, 4))
        return torch.cat(per_level)

    @computed_once
    def points(self) -> Tensor:
        """Location of every prior, (x, y) in pixels, shape (P, 2)."""
        return self.grid.points[:, None].expand(-1, self.anchors_per_point, 2).reshape(-1, 2)

    @computed_once
    def origins(self) -> Tensor:
        """Location of every prior, twice: what boxes xyxy are relative to, shape (P, 4)."""
        return self.points.repeat(1, 2)

    @computed_once
    def cells(self) -> Tensor:
        """Boxes of one stride around the location of every prior, xyxy in pixels, shape (P, 4)."""
        half = self.strides[:, None] / 2
        return torch.cat([self.points - half, self.points + half], dim=-1)

    @computed_once
    def strides(self) -> Tensor:
        """Stride of every prior in pixels, shape (P,)."""
        return self.grid.point_strides[:, None].expand(-1, self.anchors_per_point).reshape(-1)


@dataclass(frozen=True)
class ChosenPriors:
    """Some priors of a pyramid, with what box coders read of them.

    Attributes:
        points: (..., 2) locations, (x, y) in pixels.
        strides: (...) in pixels.
        boxes: (..., 4) anchors, xyxy in pixels.
        plus_one: see :class:`Priors`.
    """

    points: Tensor
    strides: Tensor
    boxes: Tensor
    plus_one: float


def square_anchors(
    strides: Sequence[int],
    scales: Sequence[float] = (8.0,),
    ratios: Sequence[float] = (1.0,),
    plus_one: float = 0.0,
    *,
    ratios_first: bool = False,
    whole_pixels: bool = False,
) -> tuple[Tensor, ...]:
    """Anchors of ``scale * stride`` pixels (square root of their area) around the origin, for every level.

    Args:
        strides: stride of each level in pixels.
        scales: side in strides; several for several octaves (RetinaNet: ``4 * 2**(i/3)``). ATSS uses one of 8 (section 3.1).
        ratios: height / width.
        plus_one: subtracted from the sides, so that the legacy width ``x1 - x0 + 1`` is the nominal one.
        ratios_first: their order, which decides what the channels of weights mean: all scales of the first ratio come first (mmdetection,
            torchvision), else all ratios of the first scale (Detectron2).
        whole_pixels: sides are cut to whole pixels and corners rounded (torchvision).

    Returns:
        per level a (A, 4) tensor xyxy.
    """
    shapes = [(scale, ratio) for ratio in ratios for scale in scales] if ratios_first else [(s, r) for s in scales for r in ratios]
    levels = []
    for stride in strides:
        boxes = []
        for scale, ratio in shapes:
            side = int(scale * stride) if whole_pixels else scale * stride
            width = math.sqrt(side**2 / ratio)
            half_w, half_h = (width - plus_one) / 2, (width * ratio - plus_one) / 2
            boxes.append([-half_w, -half_h, half_w, half_h])
        anchors = torch.tensor(boxes, dtype=torch.float32)
        levels.append(anchors.round() if whole_pixels else anchors)
    return tuple(levels)
