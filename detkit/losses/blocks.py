"""Large tables in parts that fit into a processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["blocks_of", "in_memory_order"]

#: elements that are computed at a time on a CPU
CACHED = 1 << 17


def in_memory_order(logits: Tensor) -> tuple[Tensor, int]:
    """Logits (..., K) as tables (T, R, C) that lie in memory as they are numbered, and the dimension of them that K is, 1 or 2.

    Flattened maps of a head, (B, P, K) of which K lies before P in memory, are tables (B, K, P). They are not copied.
    """
    if logits.ndim == 3 and logits.transpose(1, 2).is_contiguous() and not logits.is_contiguous():
        return logits.transpose(1, 2), 1
    return logits.reshape(1, -1, logits.shape[-1]), 2


def blocks_of(tables: Tensor) -> list[tuple[slice, slice]]:
    """Parts of tables (T, R, C) by tables and rows: small enough for a processor's cache on a CPU, all at once on other devices, and for
    compilers, which make blocks of their own."""
    if tables.device.type != "cpu" or torch.compiler.is_compiling():
        return [(slice(None), slice(None))]
    size = max(CACHED // max(tables.shape[2], 1), 1)
    starts = range(0, tables.shape[1], size)
    return [(slice(t, t + 1), slice(start, start + size)) for t in range(len(tables)) for start in starts]
