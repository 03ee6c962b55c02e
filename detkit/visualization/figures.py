"""Line plots as inline SVG whose colors are the page's CSS variables, so that they follow its light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = ["NUM_COLORS", "Line", "line_figure"]

#: categorical colors that the page defines as --series-0, --series-1, ...
NUM_COLORS = 6
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1.5)), (0, (8, 2)))

# matplotlib draws with these, which stand for CSS variables
_INK, _MUTED, _GRID = "#0a0b01", "#0a0b02", "#0a0b03"
_SERIES = tuple(f"#0a0c0{number}" for number in range(NUM_COLORS))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--line"} | {c: f"--series-{i}" for i, c in enumerate(_SERIES)}

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
}


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Args:
        x, y: (N,) values; NaN leaves a gap.
        label: in the legend; None: not there.
        color: number of a categorical color, which also sets the dashes; "ink" for the main line; "faint" for background.
        raw: (N,) unsmoothed values, drawn faintly in the same color.
    """

    x: ArrayLike
    y: ArrayLike
    label: str | None = None
    color: int | str = 0
    raw: ArrayLike | None = None


def line_figure(
    lines: Sequence[Line],
    *,
    alt: str,
    xlabel: str,
    ylabel: str,
    xlim: tuple[float, float | None] | None = None,
    ylim: tuple[float, float | None] | None = None,
    markers: bool = False,
) -> Markup:
    """A line plot as ``<svg>``, as wide as its place.

    Args:
        alt: what the plot shows, for readers who do not see it.
        markers: draw a dot at every value.
    """
    with rc_context({**_STYLE, "svg.hashsalt": alt}):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        for line in lines:
            color, dashes, width = _look(line)
            if line.raw is not None:
                axes.plot(line.x, line.raw, color=color, alpha=0.25, linewidth=0.8)
            marker = "o" if markers or np.size(line.x) == 1 else None
            axes.plot(line.x, line.y, color=color, linestyle=dashes, linewidth=width, label=line.label, marker=marker, markersize=4)
        axes.set_xlim(*(xlim or (None, None)))
        axes.set_ylim(*(ylim or (None, None)))
        named = sum(line.label is not None for line in lines)
        if named:
            figure.legend(loc="outside lower center", ncols=min(named, 3 if named > 4 else 4))
        return _to_svg(figure, alt)


def _look(line: Line) -> tuple[str, str | tuple[int, tuple[float, ...]], float]:
    if line.color == "ink":
        return _INK, "-", 2.2
    if isinstance(line.color, str):
        return _GRID, "-", 1.0
    return _SERIES[line.color % NUM_COLORS], _DASHES[line.color % len(_DASHES)], 1.7


def _to_svg(figure: Figure, alt: str) -> Markup:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", text)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    opening = f'<svg {view_box[0]} role="img" aria-label="{escape(alt)}" stroke-linejoin="round">'
    return Markup(re.sub(r"<svg.*?>", lambda _: opening, text, count=1, flags=re.DOTALL))
