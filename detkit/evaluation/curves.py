"""The numbers that a training logged: one series over the iterations per name."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data import require_regular_file

from .files import EvaluationError

__all__ = ["Series", "ap_series", "loss_series", "read_metrics", "smoothed"]


@dataclass(frozen=True)
class Series:
    """Values (N,) at iterations (N,), in rising order."""

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Reads the ``metrics.json`` of a run: one json object per line, each with an ``iteration``.

    Where a resumed run logged an iteration twice, the later line counts. A last line that is cut off (the run still writes, or was
    killed) is left out, as are values that are not finite.

    Raises:
        EvaluationError: any other line is not a json object; names file and line.
        OSError: the file cannot be read.
    """
    require_regular_file(path)
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    values: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise EvaluationError(f"{path}, line {number}: not json ({error}). Delete the line, or move the file away.") from None
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            raise EvaluationError(f"{path}, line {number}: not a json object with an 'iteration'. Delete the line, or move the file away.")
        for name, value in record.items():
            if isinstance(value, int | float) and np.isfinite(value):
                values.setdefault(name, {})[record["iteration"]] = float(value)
    return {name: _series(by_iteration) for name, by_iteration in values.items() if name != "iteration"}


def loss_series(metrics: dict[str, Series]) -> dict[str, Series]:
    """The total loss first, then its terms."""
    names = ["total_loss", *sorted(name for name in metrics if name.startswith("loss_"))]
    return {name: metrics[name] for name in names if name in metrics}


def ap_series(metrics: dict[str, Series]) -> dict[str, Series]:
    """AP and AP50 of every task and test set, as Detectron2 names them: ``bbox/AP``, ``<dataset>/segm/AP50``.

    Each is that of the dataset's own evaluator: ``bbox/AP`` is CrowdHuman's where that is evaluated.
    """
    return {name: series for name, series in metrics.items() if re.search(r"(^|/)(bbox|segm|keypoints)/AP(50)?$", name)}


def smoothed(series: Series, *, share: float = 0.08) -> Series:
    """Moving mean over a centered window of ``share`` of all values, shorter at both ends."""
    count = len(series.values)
    half = int(count * share / 2)
    sums = np.concatenate([[0.0], series.values.cumsum()])
    start = np.maximum(np.arange(count) - half, 0)
    stop = np.minimum(np.arange(count) + half + 1, count)
    return Series(series.iterations, (sums[stop] - sums[start]) / (stop - start))


def _series(by_iteration: dict[int, float]) -> Series:
    iterations = sorted(by_iteration)
    return Series(np.array(iterations), np.array([by_iteration[i] for i in iterations]))
