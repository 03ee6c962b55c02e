"""Features at landmarks, which the second stage adds to the feature at the anchor point (LSNet, section 3.4, table 3 and figures 3, 4):
convolutions whose points lie at landmarks, on the features of several pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detkit.layers import init_conv

from .landmarks import KERNEL_POINTS, LandmarkSet

__all__ = ["LandmarkSampler", "LearnedSampler", "PyramidSampler", "SourceScale", "convolve_at", "kernel_offsets", "level_scales"]

KERNEL_SIZE = 3


def kernel_offsets(vectors: Tensor, free: Tensor, landmarks: LandmarkSet, gradient_share: float) -> Tensor:
    """Offsets of the nine points of a deformable kernel that put them at landmarks.

    Args:
        vectors: (B, 4 * (V + 1), H, W) cross coordinates of the first stage in cells.
        free: (B, 2 * F, H, W) pairs of (y, x) in cells, positions of the points that no landmark steers.
        landmarks: says which vectors steer.
        gradient_share: how much of the gradient goes back to the first stage (official code: 0.1).

    Returns:
        (B, 18, H, W), pairs of (y, x) in cells, relative to the regular 3 x 3 grid.
    """
    crossing = vectors.unflatten(1, (-1, 4)).movedim((1, 2), (-2, -1))
    if torch.compiler.is_compiling():
        crossing = crossing.contiguous()  # exporters cannot follow the strides of permuted tensors
    offsets = landmarks.offsets(crossing)  # (B, H, W, V + 1, 2)
    chosen = torch.stack([offsets[..., vector, :] for vector in landmarks.kernel_vectors], dim=-2)
    positions = torch.cat([chosen.flip(-1).flatten(-2).movedim(-1, 1), free], dim=1)
    if torch.compiler.is_compiling():
        positions = positions.contiguous()
    positions = gradient_share * positions + (1 - gradient_share) * positions.detach()
    steps = torch.arange(KERNEL_SIZE, device=vectors.device, dtype=vectors.dtype) - KERNEL_SIZE // 2
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).view(1, 2 * KERNEL_POINTS, 1, 1)
    return positions - grid


class SourceScale(NamedTuple):
    """How positions on one level become positions on another one, as (y, x).

    Attributes:
        kernel: factor of the regular kernel grid around an output cell.
        offset: factor of the offsets from that grid.
    """

    kernel: tuple[float, float]
    offset: tuple[float, float]


def source_levels(level: int, num_levels: int) -> tuple[int, ...]:
    """The levels whose features a level uses: itself and its two neighbors, at the ends the nearest two."""
    neighbors = (level - 1, level + 1)
    if level == 0:
        neighbors = (1, 2)
    elif level == num_levels - 1:
        neighbors = (level - 1, level - 2)
    return tuple(source for source in (level, *neighbors) if 0 <= source < num_levels)


def level_scales(
    level: int, sizes: Sequence[tuple[int, int]], strides: Sequence[int], form: Literal["official", "ideal"]
) -> list[tuple[int, SourceScale]]:
    """The source levels of a level, with their scales.

    Args:
        level: where the landmarks were predicted.
        sizes: (height, width) of all levels.
        strides: of all levels in pixels.
        form: ``"ideal"``: both factors are the ratio of the strides, so that all sources are read at the landmark. ``"official"``: ratios
            of the sizes in cells, and the offsets are also multiplied by the ratios of the sources visited before (the official code
            edits a view in place): P3 reads P5 at an eighth of the offset instead of a quarter. For weights trained with it.
    """
    scales, accumulated = [], (1.0, 1.0)
    for source in source_levels(level, len(sizes)):
        if form == "ideal":
            ratio = (strides[level] / strides[source],) * 2
            scales.append((source, SourceScale(ratio, ratio)))
        else:
            ratio = (sizes[source][0] / sizes[level][0], sizes[source][1] / sizes[level][1])
            accumulated = (accumulated[0] * ratio[0], accumulated[1] * ratio[1])
            scales.append((source, SourceScale(ratio, accumulated)))
    return scales


def convolve_at(x: Tensor, offset: Tensor, weight: Tensor, scale: SourceScale | None = None) -> Tensor:
    """Deformable convolution whose input may have another resolution than its output.

    Kernel point (i, j) of output cell (row, col) reads x at ``(row + i - center) * scale.kernel + offset * scale.offset``, bilinearly and
    with zeros outside. At equal resolution this is :func:`detkit.layers.deform_conv2d` with padding; on a CPU it takes a fraction of its
    time. Memory: kernel points x channels x output cells while it runs, forward and backward, for the features that it reads. Between the
    two it keeps the positions alone, 68 bytes per kernel point and output cell, and reads the features again, which takes about a sixth
    more time than to keep them (``benchmarks/landmark_convolution.py``).

    Args:
        x: (B, C, H, W).
        offset: (B, 2 * k * k, H', W') in cells of the output's level, pairs of (y, x) for the kernel's points row by row.
        weight: (C', C, k, k).
        scale: None: sizes decide, ``offset`` is given in cells of x (the official operator ``PyramidDeformConv``).

    Returns:
        (B, C', H', W').
    """
    height, width = offset.shape[-2:]
    if scale is None:
        scale = SourceScale((x.shape[-2] / height, x.shape[-1] / width), (1.0, 1.0))
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    if torch.compiler.is_compiling():
        return _convolve_grid_samples(x, offset, weight, scale)
    down, right = offset.unflatten(1, (-1, 2)).permute(2, 0, 3, 4, 1)  # (B, H', W', k*k) each
    grid_rows, grid_columns = _kernel_grid(height, width, weight.shape[-1], offset.device)
    rows = grid_rows * scale.kernel[0] + down * scale.offset[0]
    columns = grid_columns * scale.kernel[1] + right * scale.offset[1]
    cells, shares = _cells_around(rows.flatten(1), columns.flatten(1), (x.shape[-2], x.shape[-1]))
    y = checkpoint(_sample_and_merge, x, cells, shares, weight, use_reentrant=False, preserve_rng_state=False)
    return y.transpose(1, 2).unflatten(2, (height, width)).to(x.dtype)


def _kernel_grid(height: int, width: int, kernel_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1, k*k) and columns (1, W, k*k) that a plain convolution with padding reads for each output cell."""
    centered = torch.arange(kernel_size, dtype=torch.float32, device=device) - kernel_size // 2
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None, None] + centered.repeat_interleave(kernel_size)
    columns = torch.arange(width, dtype=torch.float32, device=device)[None, :, None] + centered.repeat(kernel_size)
    return rows, columns


def _convolve_grid_samples(x: Tensor, offset: Tensor, weight: Tensor, scale: SourceScale) -> Tensor:
    """:func:`convolve_at` by operators that compilers and exporters know.

    One kernel point after the other, in the layout of the offsets: exporters cannot follow the strides of permuted tensors.
    """
    height, width = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = torch.arange(offset.shape[-2], dtype=torch.float32, device=x.device)[:, None]
    columns = torch.arange(offset.shape[-1], dtype=torch.float32, device=x.device)
    size, samples = weight.shape[-1], []
    for point in range(size * size):
        row = (rows + (point // size - size // 2)) * scale.kernel[0] + offset[:, 2 * point] * scale.offset[0]
        column = (columns + (point % size - size // 2)) * scale.kernel[1] + offset[:, 2 * point + 1] * scale.offset[1]
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)  # (B, H', W', 2)
        samples.append(F.grid_sample(x.to(dtype), grid.to(dtype), padding_mode="zeros", align_corners=False))
    kernel = weight.flatten(2).transpose(1, 2).flatten(1)[..., None, None]  # (C', k*k * C, 1, 1)
    return F.conv2d(torch.cat(samples, dim=1), kernel.to(dtype)).to(x.dtype)


def _cells_around(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four cells around positions (B, N), counted through all maps of a batch of (height, width), and their shares: both (B * N, 4)."""
    height, width = size
    cell_rows, row_shares = _neighbors(rows, height)
    cell_columns, column_shares = _neighbors(columns, width)
    starts = torch.arange(0, len(rows) * height * width, height * width, device=rows.device)[:, None, None, None]
    cells = starts + cell_rows[..., :, None] * width + cell_columns[..., None, :]  # (B, N, 2, 2)
    shares = row_shares[..., :, None] * column_shares[..., None, :]
    return cells.view(-1, 4), shares.view(-1, 4)


def _neighbors(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two cells of an axis next to each position, and their shares in it, 0 for cells that do not exist: both (..., 2)."""
    below = positions.detach().floor()
    beyond = positions - below
    cells = torch.stack([below, below + 1], dim=-1)
    shares = torch.stack([1 - beyond, beyond], dim=-1) * ((cells >= 0) & (cells < size))
    return cells.nan_to_num(0.0).clamp(0, size - 1).long(), shares


def _sample_and_merge(x: Tensor, cells: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """What the kernel's points see of x, merged by the kernel: (B, H' * W', C')."""
    sampled = _weighted_cells(x, cells, shares)
    kernel = weight.permute(2, 3, 1, 0).flatten(0, 2).to(sampled.dtype)
    return sampled.view(len(x), -1, len(kernel)) @ kernel


def _weighted_cells(x: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """Sums (N, C) of the features in cells (N, 4), weighted by their shares: in float32 or, if x is, in float64.

    Sums of rows of a table are an operation that exists fast and with all gradients on CPU and GPU.
    """
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    table = x.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(x.device.type, enabled=False):
        return F.embedding_bag(cells, table, per_sample_weights=shares.to(dtype), mode="sum")


class LandmarkSampler(nn.Module):
    """Features at landmarks on the level of the anchor point ("PE" of table 3).

    Args:
        in_channels: of the features.
        channels: of the result.
    """

    num_sources = 1

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, in_channels, KERNEL_SIZE, KERNEL_SIZE))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.merge = Conv2d(self.num_sources * channels, channels, kernel_size=1)
        init_conv(self.merge)

    def forward(self, features: Sequence[Tensor], level: int, offset: Tensor) -> Tensor:
        """(B, channels, H, W) on a level, from the features of all levels and offsets (B, 18, H, W) in cells of that level."""
        convolved = [convolve_at(features[source], offset, self.weight, scale) for source, scale in self.sources(features, level)]
        return self.merge(torch.cat(convolved, dim=1)).relu()

    def sources(self, features: Sequence[Tensor], level: int) -> list[tuple[int, SourceScale]]:
        """The levels to read, and how positions become positions there."""
        return [(level, SourceScale((1.0, 1.0), (1.0, 1.0)))]


class PyramidSampler(LandmarkSampler):
    """Features at landmarks on the level of the anchor point and on two neighbors ("PP" of table 3).

    Args:
        in_channels, channels: as of :class:`LandmarkSampler`.
        strides: of all levels in pixels, at least three.
        scales: ``"official"`` or ``"ideal"``, see :func:`level_scales`.
    """

    num_sources = 3

    def __init__(self, in_channels: int, channels: int, *, strides: Sequence[int], scales: Literal["official", "ideal"]) -> None:
        if len(strides) < self.num_sources:
            raise ValueError(f"strides has {len(strides)} levels. Pyramid features need at least {self.num_sources}.")
        if scales not in ("official", "ideal"):
            raise ValueError(f"scales is {scales!r}. It has to be 'official' or 'ideal'.")
        super().__init__(in_channels, channels)
        self.strides = tuple(strides)
        self.scales = scales

    def sources(self, features: Sequence[Tensor], level: int) -> list[tuple[int, SourceScale]]:
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        return level_scales(level, sizes, self.strides, self.scales)


class LearnedSampler(LandmarkSampler):
    """Features where an ordinary deformable convolution finds them useful, whatever the landmarks ("DCN feat" of figure 4)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels)
        self.conv_offset = Conv2d(in_channels, 2 * KERNEL_POINTS, kernel_size=KERNEL_SIZE, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, features: Sequence[Tensor], level: int, offset: Tensor) -> Tensor:
        return super().forward(features, level, self.conv_offset(features[level]))
