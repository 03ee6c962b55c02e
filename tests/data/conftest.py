"""The fixtures of tests on data."""

from __future__ import annotations

from pathlib import Path

import pytest

from .own_data import OwnData


@pytest.fixture
def own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> OwnData:
    """A small dataset of a user's own, and the command line on it."""
    return OwnData(tmp_path, capsys)
