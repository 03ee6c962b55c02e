"""Comparisons that refuse to compare nothing with nothing.

Two empty tensors are always equal, so a test whose model finds nothing would pass whatever the model does. ``tests/conftest.py`` puts
:func:`assert_close` and its kind in the place of ``torch.testing.assert_close``, ``numpy.testing.assert_allclose`` and
``numpy.testing.assert_array_equal``, for all tests: an expected value without a single number is an error. Where nothing is the right
answer, say so: ``assert len(result) == 0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from hypothesis import currently_in_test_context

__all__ = ["NothingComparedError", "install", "refusing_emptiness"]


class NothingComparedError(AssertionError):
    """A comparison of nothing with nothing."""


def refusing_emptiness(compare: Callable[..., None]) -> Callable[..., None]:
    """The comparison, but an error where neither side has a number.

    Args:
        compare: called with ``(actual, expected)`` and options; tensors, arrays, numbers, sequences and mappings of them.
    """

    @wraps(compare)
    def checked(actual: Any, expected: Any, *args: Any, **options: Any) -> None:
        __tracebackhide__ = True
        compare(actual, expected, *args, **options)
        if not holds_something(expected) and not currently_in_test_context():
            raise NothingComparedError(
                "Both sides are empty, so this comparison holds whatever the code does. Make the test compare something; where nothing is "
                "the right answer, assert that the length is 0."
            )

    return checked


def holds_something(value: Any) -> bool:
    """Whether there is a number, or anything else that is no container, in it."""
    if isinstance(value, torch.Tensor):
        return value.numel() > 0
    if isinstance(value, np.ndarray):
        return value.size > 0
    if isinstance(value, Mapping):
        return any(map(holds_something, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return any(map(holds_something, value))
    return value is not None


def install() -> None:
    """Puts the refusing comparisons in the place of the libraries' own. To be called before test modules are imported."""
    for module, name in ((torch.testing, "assert_close"), (np.testing, "assert_allclose"), (np.testing, "assert_array_equal")):
        setattr(module, name, refusing_emptiness(getattr(module, name)))
