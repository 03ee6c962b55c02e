"""Which cells the kernels of convolutions at landmarks read, on every level of a pyramid at once (LSNet, section 3.4).

Tensors have the shape (..., S, K, B, P): sources, kernel points, images, and output cells of all levels last, so that broadcasting runs
along long rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reading", "ReadingTable", "Sizes", "SourceScale", "Sources", "cells_around", "reading_of", "reading_table", "sizes_of"]

#: pyramids whose tables are kept, about two megabytes each
MAX_KEPT = 16

#: (height, width) of levels
Sizes = tuple[tuple[int, int], ...]


class SourceScale(NamedTuple):
    """How positions on one level become positions on another one, as (y, x).

    Attributes:
        kernel: factor of the regular kernel grid around an output cell.
        offset: factor of the offsets from that grid.
    """

    kernel: tuple[float, float]
    offset: tuple[float, float]


#: of every level, the levels that it reads, as many for each, and how positions become positions there
Sources = tuple[tuple[tuple[int, SourceScale], ...], ...]


class Reading(NamedTuple):
    """What every output cell reads, image by image, cell by cell, source by source.

    Attributes:
        rows: (B * P * S, 4 * K) int32, the four cells around each kernel point, as rows of a table with K of them for every cell of the
            batch: cell times K plus number of the point.
        shares: (B * P * S, 4 * K) of these cells, 0 for cells that do not exist.
        batch: B.
        num_sources: S.
    """

    rows: Tensor
    shares: Tensor
    batch: int
    num_sources: int


class ReadingTable(NamedTuple):
    """Where the output cells of a pyramid lie, and which levels they read. Axes are rows, then columns.

    Attributes:
        steps: (2, K) rows and columns of the kernel's points, from its center.
        cells: (2, P) row and column of every output cell in its level.
        kernel, offset: (2, S, P) factors of :class:`SourceScale`.
        last: (2, S, P) last row and column of the source.
        widths: (S, P) int32, cells in a row of the source.
        starts: (S, P) int32, index of the source's first cell among those of an image.
        num_cells: that an image has on all levels that are read.
    """

    steps: Tensor
    cells: Tensor
    kernel: Tensor
    offset: Tensor
    last: Tensor
    widths: Tensor
    starts: Tensor
    num_cells: int


def reading_of(offsets: Sequence[Tensor], sources: Sources, sizes: Sizes) -> Reading:
    """What kernels with these offsets read, with gradient.

    Kernel point (i, j) of output cell (row, col) reads a source at ``(row + i - center) * scale.kernel + offset * scale.offset``,
    bilinearly and with zeros outside.

    Args:
        offsets: (B, 2 * K, H', W') per level, in cells of that level, pairs of (y, x) for the kernel's points row by row.
        sources: of every level.
        sizes: of the levels that are read.
    """
    out_sizes = sizes_of(offsets)
    side, device = round((int(offsets[0].shape[1]) / 2) ** 0.5), offsets[0].device
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        table = _make_table(sizes, out_sizes, sources, side, device)
    else:
        table = reading_table(sizes, out_sizes, sources, side, device, torch.is_inference_mode_enabled())
    flat = torch.cat([offset.flatten(2) for offset in offsets], dim=2)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32)).unflatten(1, (-1, 2))
    moved = flat.permute(2, 1, 0, 3)[:, None]  # (2, 1, K, B, P)
    steps = table.steps[:, None, :, None, None]
    regular = (table.cells[:, None, None, None] + steps) * table.kernel[:, :, None, None]  # (2, S, K, 1, P)
    return cells_around(regular + moved * table.offset[:, :, None, None], table)


def sizes_of(maps: Sequence[Tensor]) -> Sizes:
    """Height and width of maps (..., H, W); numbers also for ``torch.jit.trace``, which is for one size."""
    number = int if torch.jit.is_tracing() else lambda side: side
    return tuple((number(x.shape[-2]), number(x.shape[-1])) for x in maps)


@lru_cache(maxsize=MAX_KEPT)
def reading_table(sizes: Sizes, out_sizes: Sizes, sources: Sources, side: int, device: torch.device, inference: bool) -> ReadingTable:
    """The table of a pyramid. Those of the last pyramids are kept, so that a step makes no tables.

    Args:
        sizes, out_sizes: of the levels that are read and of those of the output.
        sources: of every level of the output.
        side: k of the kernel.
        device: of the tensors.
        inference: whether they may be made in inference mode, where no training can use them.
    """
    return _make_table(sizes, out_sizes, sources, side, device)


def _make_table(sizes: Sizes, out_sizes: Sizes, sources: Sources, side: int, device: torch.device) -> ReadingTable:
    starts = [0]
    for height, width in sizes:
        starts.append(starts[-1] + height * width)
    cells, factors, whole = [], [], []
    for (height, width), level_sources in zip(out_sizes, sources, strict=True):
        row = torch.arange(height, dtype=torch.float32, device=device)[:, None].expand(height, width)
        column = torch.arange(width, dtype=torch.float32, device=device).expand(height, width)
        cells.append(torch.stack([row, column]).flatten(1))
        ones = torch.ones(height * width, device=device)
        scales = [(*scale.kernel, *scale.offset, sizes[source][0] - 1, sizes[source][1] - 1) for source, scale in level_sources]
        factors.append(torch.stack([torch.stack([ones * value for value in values]) for values in zip(*scales, strict=True)]))
        numbers = [[sizes[source][1] for source, _ in level_sources], [starts[source] for source, _ in level_sources]]
        ones = ones.int()
        whole.append(torch.stack([torch.stack([ones * value for value in values]) for values in numbers]))
    kernel, offset, last = torch.cat(factors, dim=-1).unflatten(0, (3, 2)).unbind()
    widths, first = torch.cat(whole, dim=-1).unbind()
    around = torch.arange(side, dtype=torch.float32, device=device) - side // 2
    steps = torch.stack([around.repeat_interleave(side), around.repeat(side)])
    return ReadingTable(steps, torch.cat(cells, dim=1), kernel, offset, last, widths, first, starts[-1])


def cells_around(positions: Tensor, table: ReadingTable) -> Reading:
    """The four cells around positions (2, S, K, B, P), rows and columns in cells of their sources, and their shares, with gradient.

    Positions that are not a number have shares that are none.
    """
    num_sources, num_points, batch = positions.shape[1:4]
    below = positions.detach().floor()
    beyond = positions - below
    last = table.last[:, :, None, None]
    ends = torch.stack([below, below + 1])  # (2 ends, 2 axes, S, K, B, P)
    inside = ends.clamp(min=0).minimum(last)
    shares = torch.stack([1 - beyond, beyond]) * (ends == inside)
    row, column = inside.nan_to_num().int().unbind(1)
    images = torch.arange(batch, dtype=torch.int32, device=positions.device)[:, None] * table.num_cells
    cells = row[:, None] * table.widths[:, None, None] + (column + (table.starts[:, None, None] + images))  # (2, 2, S, K, B, P)
    points = torch.arange(num_points, dtype=torch.int32, device=positions.device)[:, None, None]
    both = cells * num_points + points, shares[:, None, 0] * shares[None, :, 1]
    rows, weights = (x.permute(4, 5, 2, 3, 0, 1).reshape(-1, 4 * num_points) for x in both)  # bags of B, P, S
    return Reading(rows, weights, batch, num_sources)
