"""What the values of config keys may be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NAMES", "Form", "Limit", "allowed_values", "number_or_none", "numbers", "rows"]


@dataclass(frozen=True)
class Form:
    """What no interval and no choice says.

    Attributes:
        words: what is allowed; completes "It has to be ...".
        holds: whether a value is.
    """

    words: str
    holds: Callable[[Any], bool] = field(repr=False)  # its address would be another one in every process


#: an interval such as ``"(0, 1)"`` (without the ends), ``"[0, 1]"`` (with them) or ``"[1, inf)"``, in which every number of a list has to
#: lie; or the words to choose from, of which every element of a list has to be one; or a form
Limit = str | Sequence[Any] | Form


#: more words than these are not listed
_SHOWN = 60


def allowed_values(value: Any, limit: Limit) -> str | None:
    """What is allowed, in words, if a value is not; None if it is."""
    if isinstance(limit, Form):
        return None if _holds(limit, value) else limit.words
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


def _holds(form: Form, value: Any) -> bool:
    try:
        return form.holds(value)
    except (AttributeError, TypeError, ValueError):  # of another type than the form looks at
        return False


def number_or_none(interval: str) -> Form:
    """A number in an interval, or None, which files and command lines may write as ``none``."""
    return Form(f"in {interval}, or none", lambda value: value is None or allowed_values(value, interval) is None)


def numbers(interval: str, count: int) -> Form:
    """A list of so many numbers in an interval."""
    return Form(f"{count} numbers in {interval}", lambda value: len(value) == count and allowed_values(value, interval) is None)


def rows(of: Limit, words: str) -> Form:
    """A list of one or more lists, each of which is of a form or has elements within a limit, and is not empty."""

    def holds(value: Any) -> bool:
        lists = all(isinstance(row, (list, tuple)) and len(row) for row in value)
        return len(value) > 0 and lists and all(allowed_values(row, of) is None for row in value)

    return Form(words, holds)


#: a list of texts
NAMES = Form("a list of names", lambda value: not isinstance(value, str) and all(isinstance(name, str) and name for name in value))


def _within(number: Any, interval: str) -> bool:
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (number > low or (interval[0] == "[" and number == low)) and (number < high or (interval[-1] == "]" and number == high))
