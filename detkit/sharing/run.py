"""From the folder of a run to a model that can be shared."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoint import CONFIG_FILE, RUN_FILE, CheckpointError, CheckpointFolder, read_checkpoint
from detkit.config import get_cfg
from detkit.data import require_regular_file

from .model import SharedModel

__all__ = ["model_of_run"]

_RESULTS_FILE = "results.json"


def model_of_run(folder: str | os.PathLike[str], *, checkpoint: str | None = None) -> SharedModel:
    """What a training has left in its ``OUTPUT_DIR``: config, weights, class names, and its measured results.

    Args:
        checkpoint: its name in the folder; None: the newest. Results belong to the weights that ``results.json`` names; with others the
            model has none.

    Raises:
        CheckpointError: no run there, or no checkpoint.
        ConfigError: its config is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder '{folder}'. Name the OUTPUT_DIR of a training.")
    cfg = get_cfg()
    cfg.merge_from_file(folder / CONFIG_FILE)
    if checkpoint is not None:
        path, state = folder / checkpoint, read_checkpoint(folder / checkpoint)
    else:
        found = CheckpointFolder(folder).load_last(read_checkpoint)
        if found is None:
            raise CheckpointError(f"There is no checkpoint of the run in '{folder}' yet. Train it until the first one is saved.")
        path, state = found[0], dict(found[1])
    weights = {key: torch.as_tensor(value) for key, value in state["model"].items()}
    names = list(state.get("classes") or cfg.DATASETS.CLASS_NAMES)
    results = _measured(folder, path)
    origin = {"command": _impersonal(str(results.get("command") or "")), **_circumstances(folder)} if results else {}
    return SharedModel(cfg, weights, names, results.get("results", {}), origin)


def _measured(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """The content of ``results.json``, if it is of this checkpoint."""
    content = _json(folder / _RESULTS_FILE)
    same = Path(str(content.get("weights", ""))).name == checkpoint.name
    return dict(content) if same and content.get("results") else {}


def _impersonal(command: str) -> str:
    """A command without the folders of the machine that it was given on."""
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in shlex.split(command))


def _circumstances(folder: Path) -> dict[str, str]:
    starts = _json(folder / RUN_FILE).get("starts") or [{}]
    start = starts[-1]
    hardware, versions = start.get("hardware", {}), start.get("versions", {})
    gpus = ", ".join(hardware.get("gpus") or [])
    return {
        "date of the training": str(start.get("time", "")),
        "hardware": gpus or f"{hardware.get('cpu', '')}, {hardware.get('cpus', '')} processors" * bool(hardware),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("detkit", "torch", "detectron2") if name in versions),
    }


def _json(path: Path) -> Mapping[str, Any]:
    try:
        require_regular_file(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
