"""The best of many values, with a rule for equal ones, and in one shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.host import values_are_at_hand

__all__ = ["ABSENT", "best_indices", "gather_rows"]

#: value of an entry that does not count; those that do are 0 or more
ABSENT = -1.0
#: relative step by which the key of an entry falls below that of an equal one before it: of 2**22 entries, all steps together stay below
#: the distance of two float32 numbers, and one step is above that of two float64 numbers
_STEP = 2.0**-46
_LEAST = 1e-50  # below every positive float32 number, so that the steps also order zeros


def best_indices(values: Tensor, count: int) -> Tensor:
    """Indices (..., k) of the greatest values along the last dimension, greatest first, of equal ones the first one first.

    k is ``count``; where there are fewer values and their number is known, it is that number. Where it is not known, as in exported
    programs of dynamic size, entries that are :data:`ABSENT` make up for the missing ones, with indices of their own beyond the last.

    Args:
        values: (..., n) float32, 0 or more, or :data:`ABSENT`; n is at most 2**22.
        count: how many, at least 1.
    """
    size = values.shape[-1]
    if isinstance(size, int) or torch.jit.is_tracing():  # while TorchScript traces, sizes are tensors
        size = int(size)
        count = min(count, size)
    else:
        values = F.pad(values, (0, count), value=ABSENT)
    if torch.onnx.is_in_onnx_export():  # the operator TopK has this very rule
        return values.topk(count).indices
    if values_are_at_hand(values):
        rows = [_best_of_row(row, count) for row in values.reshape(-1, values.shape[-1])]
        return torch.stack(rows).view(*values.shape[:-1], count) if rows else values.new_empty(0, count, dtype=torch.int64)
    position = torch.arange(values.shape[-1], device=values.device, dtype=torch.float64)
    # the absent ones fall too, since a heap that sees ever greater values is slow
    key = torch.where(values < 0, -1 - position, values.double().clamp(min=_LEAST) * (1 - _STEP * position))
    return key.topk(count).indices


def _best_of_row(row: Tensor, count: int) -> Tensor:
    """As :func:`best_indices`, of one row (n,). Only the few that can be among the best are sorted."""
    absent = row < 0
    index = (~absent).nonzero().squeeze(1)
    there = row[index]
    if len(index) > count:
        least = there.topk(count, sorted=False).values.amin()
        enough = (~(there < least)).nonzero().squeeze(1)  # not >=, which no NaN is
        index, there = index[enough], there[enough]
    best = index[there.sort(descending=True, stable=True).indices[:count]]
    if len(best) == count:
        return best
    return torch.cat([best, absent.nonzero().squeeze(1)[: count - len(best)]])


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, k, ...) of values (B, n, ...) by their index (B, k)."""
    shape = (*index.shape, *values.shape[2:])
    return values.gather(1, index.reshape(*index.shape, *[1] * (values.ndim - 2)).expand(shape))
