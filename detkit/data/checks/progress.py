"""Progress of long checks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from detkit.distributed import get_rank

__all__ = ["show_progress"]

_T = TypeVar("_T")
#: fewer items than these are checked before anybody wonders
_MANY = 2000


def show_progress(items: Iterable[_T], total: int, what: str) -> Iterator[_T]:
    """The items; where they are many and the first worker has a terminal, with a bar that goes away at the end."""
    shown = total >= _MANY and get_rank() == 0 and sys.stdout.isatty()
    yield from tqdm(
        items, total=total, desc=f"checking {what}", unit="", leave=False, disable=not shown, file=sys.stdout, dynamic_ncols=True
    )
