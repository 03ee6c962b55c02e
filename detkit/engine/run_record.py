"""The record of a run: its config, seed, command, code and machine."""

from __future__ import annotations

import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode

import detkit
from detkit.checkpoint import CONFIG_FILE, RUN_FILE, write_text_atomically
from detkit.data import require_regular_file
from detkit.distributed import get_world_size, usable_processors
from detkit.engine.elastic import job_id

__all__ = ["command_line", "describe_environment", "save_run_record", "write_record"]

_PACKAGES = ("torchvision", "timm", "fvcore", "pycocotools", "opencv-python-headless", "numpy", "Pillow", "scipy")


def save_run_record(
    cfg: CfgNode, *, run: str | None = None, iteration: int = 0, classes: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> None:
    """Writes ``config.yaml`` and ``run.json`` into ``OUTPUT_DIR``. Every start of the folder adds one to the record.

    Args:
        cfg: what really runs. Call this when weights and data have been accepted: a start that fails must not change a finished run.
        run: its identity, which its checkpoints hold too; None: unknown.
        iteration: the first one of this start; above 0 where the run was resumed.
        classes: names of the classes, in the order of the model.
        changes: keys that are different since the checkpoint, with their old and new values.
    """
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / CONFIG_FILE, cfg.dump())
    start = {
        "run": run,
        "iteration": iteration,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "seed": cfg.SEED,
        "workers": get_world_size(),
        "images_per_part": cfg.SOLVER.IMS_PER_BATCH // (get_world_size() * cfg.SOLVER.ACCUMULATE),
        "job": job_id(),
        "classes": list(classes),
        "changes": dict(changes or {}),
        **describe_environment(),
    }
    path = folder / RUN_FILE
    write_record(path, {"starts": [*_earlier_starts(path), start]})


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


def write_record(path: str | Path, content: Any) -> None:
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


def _earlier_starts(path: Path) -> list[Any]:
    """Of the record that is there; a record that is none is written anew."""
    try:
        require_regular_file(path)
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return starts if isinstance(starts, list) else []


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
