"""The comparisons that all tests use refuse to compare nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.comparing import NothingComparedError


@pytest.mark.parametrize(
    "empty", [torch.zeros(0, 4), np.zeros((0, 4)), [], {}, {"model": {}}, [torch.zeros(0), torch.zeros(0, 2)]], ids=lambda value: str(value)
)
def test_nothing_is_not_compared(empty: Any) -> None:
    with pytest.raises(NothingComparedError, match="Both sides are empty"):
        torch.testing.assert_close(empty, empty)
    with pytest.raises(NothingComparedError):
        assert_close(empty, empty)


@pytest.mark.parametrize("compare", [np.testing.assert_allclose, np.testing.assert_array_equal])
def test_neither_with_numpy(compare: Any) -> None:
    with pytest.raises(NothingComparedError):
        compare(np.zeros(0), [])
    compare(np.zeros(2), [0.0, 0.0])
    with pytest.raises(AssertionError, match="(?i)not equal"):
        compare(np.zeros(2), [0.0, 1.0])


def test_everything_else_is_compared_as_ever() -> None:
    assert_close(torch.ones(2), torch.ones(2))
    assert_close({"weights": torch.ones(2), "buffers": torch.zeros(0)}, {"weights": torch.ones(2), "buffers": torch.zeros(0)})
    assert_close(0.0, 0.0)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(torch.ones(2), torch.zeros(2))
    with pytest.raises(AssertionError, match="do not match"):
        assert_close(torch.ones(0, 4), torch.ones(1, 4))
