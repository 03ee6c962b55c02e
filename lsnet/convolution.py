"""A convolution that reads maps of other resolutions at given positions, in PyTorch and in ONNX (LSNet, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detkit.layers import export_as

from .reading import Reading, ReadingTable, SourceScale, cells_around, reading_of

__all__ = ["convolve", "convolve_at"]


def convolve(features: Sequence[Tensor], reading: Reading, weight: Tensor) -> Tensor:
    """Deformable convolution on all levels of a pyramid at once, with the weight that they share.

    All cells are multiplied with all points of the kernel first, in one product; then every output cell adds up the rows that it reads. So
    a cell is multiplied once, however many levels read it. Memory while it runs: K * C' numbers in float32 for every cell of the features,
    in the backward pass twice. Between the two the positions alone are kept, 288 bytes per source and output cell of a 3 x 3 kernel,
    once for all convolutions that share them; the products are made again.

    Args:
        features: (B, C, H, W) per level.
        reading: of :func:`lsnet.reading.reading_of`.
        weight: (C', C, k, k).

    Returns:
        (B, P, S * C'), P counting the output cells of all levels, S the sources of each.
    """
    if torch.is_grad_enabled():
        y = checkpoint(_multiply_and_sum, reading, weight, *features, use_reentrant=False, preserve_rng_state=False)
    else:
        y = _multiply_and_sum(reading, weight, *features)
    return y.to(features[0].dtype)


def convolve_at(x: Tensor, offset: Tensor, weight: Tensor, scale: SourceScale | None = None) -> Tensor:
    """Deformable convolution whose input may have another resolution than its output.

    Kernel point (i, j) of output cell (row, col) reads x at ``(row + i - center) * scale.kernel + offset * scale.offset``, bilinearly and
    with zeros outside. At equal resolution this is :func:`detkit.layers.deform_conv2d` with padding; on a CPU it takes a fraction of its
    time. This is :func:`convolve` of one level, and what exported programs have for each level.

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
    if torch.compiler.is_exporting():
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        return _convolve(x, *_positions(offset, weight.shape[-1], scale), weight)
    reading = reading_of([offset], (((0, scale),),), ((x.shape[-2], x.shape[-1]),))
    return convolve([x], reading, weight).transpose(1, 2).unflatten(2, (height, width))


def _multiply_and_sum(reading: Reading, weight: Tensor, *features: Tensor) -> Tensor:
    """(B, P, S * C') in float32 or, if the features are, in float64."""
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in features], dim=1)  # (B, cells, C)
    kernel = weight.permute(2, 3, 0, 1).flatten(0, 2).to(cells.dtype)  # (k * k * C', C)
    products = F.linear(cells, kernel).view(-1, len(weight))
    dtype = torch.promote_types(cells.dtype, torch.float32)
    # sums of rows of a table are an operation that exists fast and with all gradients on CPU and GPU
    with torch.autocast(cells.device.type, enabled=False):
        sums = F.embedding_bag(reading.rows, products.to(dtype), per_sample_weights=reading.shares.to(dtype), mode="sum")
    return sums.view(reading.batch, -1, reading.num_sources * len(weight))


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
    """:func:`convolve_at` without gradients, as one operator of exported programs, from positions (B, k*k, H', W')."""
    height, width = x.shape[-2:]
    none, last = rows.new_zeros(1, 1), rows.new_tensor([height - 1, width - 1]).view(2, 1, 1)
    table = ReadingTable(
        steps=none, cells=none, kernel=none, offset=none, last=last, widths=none.int() + width, starts=none.int(), num_cells=height * width
    )
    positions = torch.stack([rows, columns]).flatten(3).transpose(1, 2)[:, None]
    y = _multiply_and_sum(cells_around(positions, table), weight, x)
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
