"""The pictures of ``docs/performance.md``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

__all__ = ["PLOTS"]

Rows = Sequence[dict[str, Any]]
COLORS = {"ours": "#c0392b", "limit": "#7f8c8d", "mmdetection": "#2e86c1", "Detectron2": "#8e44ad", "torchvision": "#d68910"}


def losses(rows: Rows, path: Path) -> None:
    """Time against objects, a panel for each method, both states of log1p."""
    rows = [row for row in rows if row.get("proposals") in (None, 100)]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = plt.subplots(1, len(methods), figsize=(3.1 * len(methods), 3.0), squeeze=False, layout="constrained")
    for panel, method in zip(panels[0], methods, strict=True):
        for side in COLORS:
            for state, style in (("fast", "-"), ("slow", ":")):
                those = [row for row in rows if (row["method"], row["side"], row["state"]) == (method, side, state)]
                if those:
                    label = side if state == "fast" else None
                    panel.plot(*_columns(those, "objects", "cpu_ms"), style, color=COLORS[side], marker=".", label=label)
        _logarithmic(panel, "objects per image", sorted({row["objects"] for row in rows}))
        panel.set_title(method, fontsize=10)
    panels[0][0].set_ylabel("ms, forward and backward")
    panels[0][0].legend(fontsize=8)
    _save(figure, path)


def growth(rows: Rows, path: Path) -> None:
    """Time and memory against objects, a line for each loss."""
    losses_of = list(dict.fromkeys(row["loss"] for row in rows))
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
    for number, name in enumerate(losses_of):
        those = [row for row in rows if row["loss"] == name]
        style = {"color": plt.get_cmap("tab10")(number % 10), "linestyle": "--" if number >= 10 else "-", "marker": "os^v"[number % 4]}
        for panel, value in zip(panels, ("cpu_ms", "memory_mib"), strict=True):
            panel.plot(*_columns(those, "objects", value), label=name, markersize=4, linewidth=1.3, **style)
    for panel, label in zip(panels, ("ms, forward and backward", "MiB at the peak"), strict=True):
        _logarithmic(panel, "objects per image", sorted({row["objects"] for row in rows}))
        panel.tick_params(axis="x", rotation=45)
        panel.set_ylabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    _save(figure, path)


def bars(value: str, label: str) -> Callable[[Rows, Path], None]:
    """A group of bars for each method, a bar for each side."""

    def draw(rows: Rows, path: Path) -> None:
        methods = list(dict.fromkeys(row["method"] for row in rows))
        sides = [side for side in COLORS if any(row["side"] == side for row in rows)]
        figure, panel = plt.subplots(figsize=(1.6 * len(methods) + 2.5, 2.8), layout="constrained")
        for number, side in enumerate(sides):
            those = {row["method"]: row[value] for row in rows if row["side"] == side}
            at = [methods.index(method) + 0.8 * (number + 0.5) / len(sides) - 0.4 for method in those]
            panel.bar(at, list(those.values()), 0.8 / len(sides), color=COLORS[side], label=side)
        panel.set_xticks(range(len(methods)), methods, fontsize=8)
        panel.set_ylabel(label)
        figure.legend(*panel.get_legend_handles_labels(), loc="outside right center", fontsize=8)
        _save(figure, path)

    return draw


def heat_map(rows: Rows, path: Path) -> None:
    """Assigners against heads: AP as color and number, and the time; gray where a cell has failed."""
    assigners, heads = (list(dict.fromkeys(row[key] for row in rows)) for key in ("assigner", "side"))
    found = {(row["assigner"], row["side"]): row for row in rows}
    values = [[found.get((assigner, head), {}).get("AP", float("nan")) for head in heads] for assigner in assigners]
    figure, panel = plt.subplots(figsize=(1.7 * len(heads) + 3.2, 0.36 * len(assigners) + 1.0), layout="constrained")
    panel.set_facecolor("#d5d8dc")
    shown = panel.imshow(values, cmap="viridis", aspect="auto")
    middle = sum(shown.get_clim()) / 2
    for (y, assigner), (x, head) in itertools.product(enumerate(assigners), enumerate(heads)):
        row = found.get((assigner, head), {})
        time = next((f"  ({row[key]} {unit})" for key, unit in (("step_ms", "ms"), ("cpu_s", "s")) if key in row), "")
        text = f"{row['AP']:.1f}{time}" if "AP" in row else "failed" if "failed" in row else ""
        panel.text(x, y, text, ha="center", va="center", fontsize=8, color="black" if values[y][x] > middle or "AP" not in row else "white")
    panel.set_xticks(range(len(heads)), heads)
    panel.set_yticks(range(len(assigners)), assigners)
    panel.xaxis.tick_top()
    figure.colorbar(shown, label="box AP")
    _save(figure, path)


def _columns(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    points = sorted((row[x], row[y]) for row in rows)
    return [point[0] for point in points], [point[1] for point in points]


def _logarithmic(panel: Any, label: str, ticks: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(list(ticks))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(label)
    panel.grid(True, which="both", alpha=0.25)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


#: by name of the result: what draws it, and its words for those who do not see it
PLOTS: dict[str, tuple[Callable[[Rows, Path], None], str]] = {
    "losses": (losses, "Time of losses against objects per image, for each toolbox; dotted in the slow state of log1p"),
    "growth": (growth, "Time and peak memory of every loss against objects per image, on logarithmic axes"),
    "inference": (bars("cpu_ms", "ms per image"), "Time of inference of each method and toolbox"),
    "matrix": (heat_map, "Box AP and training time of every assigner on every head, as a heat map"),
    "launches": (bars("launches", "launches per training step"), "Launches of a training step of each method and toolbox"),
}
