"""What the values of config keys may be."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

__all__ = ["Limit", "allowed_values"]

#: an interval such as ``"(0, 1)"`` (without the ends), ``"[0, 1]"`` (with them) or ``"[1, inf)"``, in which every number of a list has to
#: lie; or the words to choose from
Limit = str | Sequence[str]


def allowed_values(value: Any, limit: Limit) -> str | None:
    """What is allowed, in words, if a value is not; None if it is."""
    if isinstance(limit, str):
        numbers = value if isinstance(value, (list, tuple)) else [value]
        return None if all(_within(number, limit) for number in numbers) else f"in {limit}"
    if value in limit:
        return None
    near = difflib.get_close_matches(str(value), limit, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"one of {', '.join(map(repr, limit))}{hint}"


def _within(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (number > low or (interval[0] == "[" and number == low)) and (number < high or (interval[-1] == "]" and number == high))
