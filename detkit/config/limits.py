"""What the values of config keys may be."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

__all__ = ["Limit", "allowed_values"]

#: an interval such as ``"(0, 1)"`` (without the ends), ``"[0, 1]"`` (with them) or ``"[1, inf)"``, in which every number of a list has to
#: lie; or the words to choose from, of which every element of a list has to be one
Limit = str | Sequence[Any]


#: more words than these are not listed
_SHOWN = 60


def allowed_values(value: Any, limit: Limit) -> str | None:
    """What is allowed, in words, if a value is not; None if it is."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(limit, str):
        return None if all(_within(number, limit) for number in values) else f"in {limit}"
    unknown = [one for one in values if one not in limit]
    if not unknown:
        return None
    near = difflib.get_close_matches(str(unknown[0]), map(str, limit), n=1, cutoff=0.0 if len(limit) > _SHOWN else 0.6)
    if len(limit) > _SHOWN:
        return f"one of {len(limit)} names, of which the nearest is {near[0]!r}"
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"one of {', '.join(map(repr, limit))}{hint}"


def _within(number: Any, interval: str) -> bool:
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (number > low or (interval[0] == "[" and number == low)) and (number < high or (interval[-1] == "]" and number == high))
