"""A convolution that reads a map of another resolution at given positions, in PyTorch and in ONNX (LSNet, section 3.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detkit.layers import export_as

__all__ = ["SourceScale", "convolve_at"]


class SourceScale(NamedTuple):
    """How positions on one level become positions on another one, as (y, x).

    Attributes:
        kernel: factor of the regular kernel grid around an output cell.
        offset: factor of the offsets from that grid.
    """

    kernel: tuple[float, float]
    offset: tuple[float, float]


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
        rows, columns = _positions(offset, weight.shape[-1], scale)
        convolve = _convolve_grid_samples if torch.is_grad_enabled() else _convolve
        return convolve(x, rows, columns, weight)
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


def _positions(offset: Tensor, kernel_size: int, scale: SourceScale) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, k*k, H', W') that the kernel's points read, in the layout of the offsets: exporters cannot follow strides of
    permuted tensors."""
    steps = torch.arange(kernel_size, dtype=torch.float32, device=offset.device) - kernel_size // 2
    down, right = (steps.view(shape).expand(kernel_size, kernel_size).reshape(-1, 1, 1) for shape in ((-1, 1), (1, -1)))
    cell_rows = torch.arange(offset.shape[-2], dtype=torch.float32, device=offset.device)[:, None]
    cell_columns = torch.arange(offset.shape[-1], dtype=torch.float32, device=offset.device)
    rows = (cell_rows + down) * scale.kernel[0] + offset[:, 0::2] * scale.offset[0]
    columns = (cell_columns + right) * scale.kernel[1] + offset[:, 1::2] * scale.offset[1]
    return rows, columns


@torch.library.custom_op("lsnet::convolve", mutates_args=())
def _convolve(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """:func:`convolve_at` without gradients, as one operator of compiled and exported programs, from positions (B, k*k, H', W')."""
    down, right = (positions.movedim(1, -1).flatten(1) for positions in (rows, columns))
    cells, shares = _cells_around(down, right, (x.shape[-2], x.shape[-1]))
    y = _sample_and_merge(x, cells, shares, weight)
    return y.transpose(1, 2).unflatten(2, tuple(rows.shape[-2:])).to(x.dtype).contiguous()


@_convolve.register_fake
def _(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(rows.shape[0], weight.shape[0], rows.shape[2], rows.shape[3])


def _convolve_grid_samples(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """``lsnet::convolve`` by PyTorch's own operators, one kernel point after the other. Differentiable."""
    height, width = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    samples = []
    for row, column in zip(rows.unbind(1), columns.unbind(1), strict=True):
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)  # (B, H', W', 2)
        samples.append(F.grid_sample(x.to(dtype), grid.to(dtype), padding_mode="zeros", align_corners=False))
    kernel = weight.flatten(2).transpose(1, 2).flatten(1)[..., None, None]  # (C', k*k * C, 1, 1)
    return F.conv2d(torch.cat(samples, dim=1), kernel.to(dtype)).to(x.dtype)


def _convolve_onnx(x: Any, rows: Any, columns: Any, weight: Any) -> Any:
    """``lsnet::convolve`` by one GridSample, which puts what a kernel sees side by side, and a convolution along that row."""
    import onnxscript

    op: Any = onnxscript.opset20
    last = op.Constant(value_ints=[-1])
    size = op.CastLike(op.Slice(op.Shape(x), op.Constant(value_ints=[2]), op.Constant(value_ints=[4]), op.Constant(value_ints=[0])), x)
    grid = []
    for positions, axis in ((columns, 1), (rows, 0)):
        side = op.Gather(size, op.Constant(value_ints=[axis]), axis=0)
        cells = op.Reshape(op.Transpose(positions, perm=[0, 2, 3, 1]), op.Constant(value_ints=[0, 0, -1]))  # (B, H', W' * k*k)
        half, one = op.Constant(value_float=0.5), op.Constant(value_float=1.0)
        place = op.Sub(op.Mul(op.Add(cells, half), op.Div(op.Constant(value_float=2.0), side)), one)
        # what lies further out sees zeros as well, and runtimes count positions in int64
        grid.append(op.Unsqueeze(op.Clip(place, op.Constant(value_float=-4.0), op.Constant(value_float=4.0)), last))
    sampled = op.GridSample(x, op.Concat(*grid, axis=-1), mode="linear", padding_mode="zeros", align_corners=0)
    points = op.Slice(op.Shape(rows), op.Constant(value_ints=[1]), op.Constant(value_ints=[2]), op.Constant(value_ints=[0]))
    row = op.Concat(op.Constant(value_ints=[0, 0, 1]), points, axis=0)
    number = int(weight.shape[2]) * int(weight.shape[3])
    return op.Conv(sampled, op.Reshape(weight, row), kernel_shape=[1, number], strides=[1, number])


export_as(torch.ops.lsnet.convolve.default, plain=_convolve_grid_samples, onnx=_convolve_onnx)


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
