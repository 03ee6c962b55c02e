"""What a training run left behind: its config, its logged numbers, its record of command and environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from detkit.checkpoint import RUN_FILE
from detkit.config import flatten, get_cfg
from detkit.engine.writers import METRICS_FILE
from detkit.evaluation.curves import Series, read_metrics
from detkit.evaluation.files import read_json

from .errors import ReportError

__all__ = ["ChangedKey", "Run", "changed_keys"]


class ChangedKey(NamedTuple):
    """A config key whose value is not the default."""

    key: str
    value: Any
    default: Any


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Args:
        folder: its ``OUTPUT_DIR``.
        cfg: its config.
        metrics: the series of ``metrics.json``; empty where nothing is logged yet.
        starts: what ``run.json`` records of each start (time, command, versions, hardware); empty without the file.
    """

    folder: Path
    cfg: CfgNode
    metrics: dict[str, Series]
    starts: list[dict[str, Any]]

    @classmethod
    def read(cls, cfg: CfgNode, folder: str | os.PathLike[str]) -> Run:
        """Reads the folder.

        Raises:
            ReportError, EvaluationError: ``metrics.json`` or ``run.json`` is broken.
            FileNotFoundError: there is no such folder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder. The output folder of a run is its OUTPUT_DIR.")
        metrics, record = folder / METRICS_FILE, folder / RUN_FILE
        return cls(
            folder=folder,
            cfg=cfg,
            metrics=read_metrics(metrics) if metrics.exists() else {},
            starts=_read_starts(record) if record.exists() else [],
        )

    @property
    def iterations_done(self) -> int:
        losses = self.metrics.get("total_loss")
        return 0 if losses is None else int(losses.iterations[-1]) + 1


def _read_starts(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    starts = content.get("starts") if isinstance(content, dict) else None
    if not isinstance(starts, list) or not all(map(_is_start, starts)):
        raise ReportError(f"{path}: 'starts' is no list of records. Move the file away to report without it.")
    return starts


def _is_start(start: Any) -> bool:
    """Whether a record has what the page shows of it."""
    if not isinstance(start, dict) or not {"time", "command", "seed", "workers"} <= start.keys():
        return False
    return all(isinstance(start.get(group) or {}, dict) for group in ("hardware", "versions", "code"))


def changed_keys(cfg: CfgNode) -> list[ChangedKey]:
    """The keys of a config that differ from ``detkit.config.get_cfg()``, in alphabetical order."""
    defaults = dict(flatten(get_cfg()))
    return [
        ChangedKey(key, value, defaults.get(key, "(no such key)"))
        for key, value in sorted(flatten(cfg))
        if key not in defaults or value != defaults[key]
    ]
