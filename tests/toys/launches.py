"""Counting what a GPU would launch; of torch alone, so that benchmarks count other toolboxes in the same way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: operations that launch nothing: views are known by themselves
FREE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "_unsafe_view", "lift_fresh", "alias"}
#: operations of which the host reads a value, or a size that depends on values
READ = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero"}


class Launches(TorchDispatchMode):
    """Counts the operations that would launch something on a GPU, by name, and those that the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in FREE:
            self.counts[name] += 1
            if name in READ or (name.startswith("index") and _by_mask(args)):
                self.waits[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def _by_mask(args: Any) -> bool:
    """Whether an index is a mask, of which the host reads how many are set."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
