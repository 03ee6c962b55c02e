"""The record of a run: its config, seed, command, code and machine."""

from __future__ import annotations

import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode

import detkit
from detkit.checkpoint import RUN_RECORD, write_text_atomically
from detkit.distributed import get_world_size, usable_processors

__all__ = ["command_line", "describe_environment", "save_run_record", "write_json"]

_PACKAGES = ("torchvision", "timm", "fvcore", "pycocotools", "opencv-python-headless", "numpy", "Pillow", "scipy")


def save_run_record(cfg: CfgNode, *, run: str, iteration: int = 0) -> None:
    """Writes ``config.yaml`` and ``run.json`` into ``OUTPUT_DIR``. A resumed run adds its start to the record, another one begins anew.

    Args:
        run: name of the run.
        iteration: that it starts with.
    """
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "config.yaml", cfg.dump())
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "iteration": iteration,
        "seed": cfg.SEED,
        "workers": get_world_size(),
        **describe_environment(),
    }
    path = folder / RUN_RECORD
    write_json(path, {"run": run, "starts": [*_earlier_starts(path, run), start]})


def command_line() -> str:
    """The command of this process, ready to be pasted into a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def describe_environment() -> dict[str, Any]:
    """Versions, code and hardware; only what is found without a measurement."""
    return {
        "versions": {
            "detkit": detkit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "code": _git_state(),
        "hardware": {
            "machine": platform.platform(),
            "cpu": _cpu_name(),
            "cpus": usable_processors(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
    }


def write_json(path: str | Path, content: Any) -> None:
    """Writes readable json, whole or not at all. NaN and infinity, which json does not have, become null."""
    write_text_atomically(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _earlier_starts(path: Path, run: str) -> list[Any]:
    try:
        record = json.loads(path.read_text())
        return record["starts"] if record.get("run", "") == run else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout that detkit is imported from, and whether it was changed; None outside a checkout."""
    folder = Path(detkit.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
