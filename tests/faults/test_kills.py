"""A run that is killed again and again; ``python -m tests.faults.kills`` does it 50 times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kills_lose_no_more_than_the_last_checkpoint_holds() -> None:
    words = [sys.executable, "-m", "tests.faults.kills", "--alone", "4", "--writes", "4", "--pairs", "1"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
