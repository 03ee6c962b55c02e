from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "toys" / "train_net.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process that trains on the toy data."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "TOY_JSON": str(tmp_path / "data" / "toy.json"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def command(cfg: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """The command that trains a config, by default the toy one."""

    def build(*words: str, config: Any = cfg, launcher: tuple[str, ...] = ()) -> list[str]:
        file = tmp_path / "toy.yaml"
        file.write_text(config.dump())
        return [sys.executable, *launcher, str(SCRIPT), "--config-file", str(file), *words]

    return build


@pytest.fixture
def train_net(command: Callable[..., list[str]], environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Runs the command to its end."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess:
        return subprocess.run(command(*words, **options), env=environment, capture_output=True, text=True, timeout=600)

    return run
