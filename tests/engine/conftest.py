from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.toy import make_toy_data, register_toy_data, toy_cfg


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """A training of six iterations on eight images of equal size."""
    data = tmp_path / "data"
    data.mkdir()
    return toy_cfg(register_toy_data(make_toy_data(data), "toy"), tmp_path / "out")
