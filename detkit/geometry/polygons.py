"""Polygons as masks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fill_polygons"]


def fill_polygons(polygons: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centers lie inside, all polygons at once, on whatever device they are.

    Where an outline crosses itself, the inside is what an odd number of crossings separates from the outside. COCO's tools count in the
    same way, to a fifth of a pixel.

    Args:
        polygons: (N, V, 2) finite x, y of the vertices in pixels, also outside the image; pixel (0, 0) reaches from 0 to 1.

    Returns:
        (N, height, width) bool.
    """
    start, stop = polygons.float(), polygons.float().roll(-1, dims=1)
    rows = torch.arange(height, device=polygons.device) + 0.5
    crossed = (start[..., 1, None] <= rows) != (stop[..., 1, None] <= rows)  # (N, V, height)
    fill = _fill_spans if polygons.device.type == "cpu" else _fill_by_parity
    return fill(start, stop, crossed, width)


def _fill_spans(start: Tensor, stop: Tensor, crossed: Tensor, width: int) -> Tensor:
    """Looks at the pixels inside alone. Reads how many there are, for which a GPU would have to be waited for.

    Args:
        start, stop: (N, V, 2) ends of all edges.
        crossed: (N, V, height) bool, rows of pixels that an edge crosses.
        width: of the masks.
    """
    number, _, height = crossed.shape
    index, edge, row = crossed.nonzero(as_tuple=True)
    (x0, y0), (x1, y1) = start[index, edge].unbind(-1), stop[index, edge].unbind(-1)
    column = _first_column(x0, y0, x1, y1, row, width)
    # every row of a polygon is crossed an even number of times: in reading order, spans begin and end in turn
    borders = ((index * height + row) * width + column).sort().values
    begin, end = borders[::2], borders[1::2]
    lengths = end - begin
    before = lengths.cumsum(0) - lengths
    inside = torch.arange(int(lengths.sum()), device=start.device) + (begin - before).repeat_interleave(lengths)
    masks = torch.zeros(number * height * width, dtype=torch.bool, device=start.device)
    masks[inside] = True
    return masks.view(number, height, width)


def _fill_by_parity(start: Tensor, stop: Tensor, crossed: Tensor, width: int) -> Tensor:
    """The same without reading a value: counts the crossings left of every pixel."""
    number, _, height = crossed.shape
    (x0, y0), (x1, y1) = start[..., None].unbind(2), stop[..., None].unbind(2)
    column = _first_column(x0, y0, x1, y1, torch.arange(height, device=start.device), width)  # (N, V, height)
    crossings = torch.zeros(number, height, width + 1, dtype=torch.uint8, device=start.device)
    crossings.scatter_add_(2, column.transpose(1, 2), crossed.transpose(1, 2).to(torch.uint8))
    return crossings.cumsum(2, dtype=torch.uint8)[..., :width] % 2 == 1  # 256 is even, as is what overflows


def _first_column(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, row: Tensor, width: int) -> Tensor:
    """The first pixel of a row whose center lies on or behind the crossing of an edge with the row's middle."""
    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    return (x - 0.5).ceil().nan_to_num().clamp(0, width).long()
