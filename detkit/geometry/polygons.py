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
    index, edge, row = crossed.nonzero(as_tuple=True)
    (x0, y0), (x1, y1) = start[index, edge].unbind(-1), stop[index, edge].unbind(-1)
    x = x0 + (rows[row] - y0) * (x1 - x0) / (y1 - y0)
    column = (x - 0.5).ceil().clamp(0, width).long()
    # every row of a polygon is crossed an even number of times: in reading order, spans begin and end in turn
    borders = ((index * height + row) * width + column).sort().values
    begin, end = borders[::2], borders[1::2]
    lengths = end - begin
    before = lengths.cumsum(0) - lengths
    inside = torch.arange(int(lengths.sum()), device=polygons.device) + (begin - before).repeat_interleave(lengths)
    masks = torch.zeros(len(polygons) * height * width, dtype=torch.bool, device=polygons.device)
    masks[inside] = True
    return masks.view(len(polygons), height, width)
