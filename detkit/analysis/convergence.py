"""AP over the training of several runs (Sparse R-CNN, Figure 2), from the metrics files that the runs wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from detkit.evaluation import EvaluationError
from detkit.evaluation.curves import Series, ap_series, read_metrics

__all__ = ["plot_convergence", "read_convergence"]


def read_convergence(path: Path, metric: str = "bbox/AP") -> Series:
    """One run's values of a metric.

    Args:
        path: of the ``metrics.json``, or of the folder it lies in.
        metric: as Detectron2 names it; of the first test set where there are several.

    Raises:
        EvaluationError: no such file, or the run logged no such metric.
    """
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise EvaluationError(f"{file}: no such file. Give a run's OUTPUT_DIR or its metrics.json.")
    metrics = ap_series(read_metrics(file))
    found = [name for name in metrics if name == metric or name.endswith(f"/{metric}")]
    if not found:
        raise EvaluationError(f"{file}: no {metric} was logged, but {sorted(metrics) or 'no AP at all: set TEST.EVAL_PERIOD'}.")
    return metrics[found[0]]


def plot_convergence(runs: Mapping[str, Series], *, metric: str = "bbox/AP", iterations_per_epoch: float | None = None) -> Figure:
    """One line per run, over iterations or, with the length of an epoch, over epochs."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, series in runs.items():
        done = series.iterations / (iterations_per_epoch or 1)
        axes.plot(done, series.values, marker="o", markersize=3, label=f"{name}: best {np.max(series.values):.1f}")
    axes.set(xlabel="epoch" if iterations_per_epoch else "iteration", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
