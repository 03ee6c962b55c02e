"""A run that is killed and resumed ends as the one that was left alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoint import read_checkpoint


def test_kill_and_resume(
    command: Callable[..., list[str]],
    train_net: Callable[..., subprocess.CompletedProcess],
    environment: dict[str, str],
    cfg: Any,
    tmp_path: Path,
) -> None:
    words = ("SOLVER.MAX_ITER", "100", "SOLVER.CHECKPOINT_PERIOD", "20", "SOLVER.EMA.ENABLED", "True", "DATALOADER.NUM_WORKERS", "1")
    killed = subprocess.Popen(command(*words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = Path(cfg.OUTPUT_DIR)
    deadline = time.monotonic() + 60
    while not (out / "last_checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (out / "model_final.pth").exists()
    done = train_net("--resume", *words)
    assert done.returncode == 0, done.stderr
    assert "Resuming after iteration" in done.stdout
    assert train_net(*words, "OUTPUT_DIR", str(tmp_path / "whole")).returncode == 0
    resumed, whole = (read_checkpoint(folder / "model_final.pth") for folder in (out, tmp_path / "whole"))
    for name in ("run", "config", "classes", "parameters"):  # texts; the folder differs
        assert (resumed.pop(name) == whole.pop(name)) == (name not in ("run", "config"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
