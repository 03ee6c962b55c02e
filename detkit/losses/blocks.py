"""Large tables in parts that fit into a processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["blocks_of_rows"]

#: elements that are computed at a time on a CPU
CACHED = 1 << 17


def blocks_of_rows(rows: Tensor) -> list[slice]:
    """Parts of the rows (R, K): small enough for a processor's cache on a CPU, all of them at once on other
    devices, and for compilers, which make blocks of their own."""
    if torch.compiler.is_compiling():
        return [slice(None)]
    size = max(CACHED // max(rows.shape[1], 1), 1) if rows.device.type == "cpu" else len(rows)
    return [slice(start, start + size) for start in range(0, len(rows), max(size, 1))]
