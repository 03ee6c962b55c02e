"""The page of a run: one HTML file that holds all it shows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from detkit.checkpoint.writer import write_text_atomically
from detkit.visualization.style import CROWD, FALSE, FOUND, HIT, MISSED

from .assigner_section import AssignerSection, assigner_section
from .run import ChangedKey, Run, changed_keys
from .sections import DatasetSection, Missing, Plot, curve_plots, dataset_section

__all__ = ["write_report"]

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page."""

    name: str
    value: str


@dataclass(frozen=True)
class Page:
    """All that the template fills in."""

    title: str
    date: str
    run: Run
    tiles: list[Tile]
    plots: list[Plot] | Missing
    datasets: dict[str, DatasetSection | Missing]
    assigner: AssignerSection | Missing
    changed: list[ChangedKey]


def write_report(cfg: CfgNode, output_dir: str | os.PathLike[str], model: nn.Module | None = None) -> Path:
    """Writes ``report.html`` into the output folder of a run, finished or not. What is not there yet is said to be missing.

    Args:
        cfg: the run's config.
        output_dir: its ``OUTPUT_DIR``, with ``metrics.json``, ``run.json``, ``inference/<dataset>/coco_instances_results.json`` and, for
            CrowdHuman's scores, ``results.json``.
        model: to show what its assigner picks; None: built from ``cfg`` with the weights of the run's last checkpoint.

    Returns:
        the path of the page.

    Raises:
        FileNotFoundError: there is no such folder.
        ReportError, detkit.evaluation.EvaluationError: a file of the run or of the dataset is broken; names the file.
    """
    folder = Path(output_dir)
    run = Run.read(cfg, folder)
    datasets = {name: dataset_section(run, name) for name in cfg.DATASETS.TEST}
    page = Page(
        title=f"{cfg.MODEL.META_ARCHITECTURE} on {', '.join(cfg.DATASETS.TEST) or 'no test set'}",
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
        run=run,
        tiles=_tiles(run, datasets),
        plots=curve_plots(run),
        datasets=datasets,
        assigner=assigner_section(cfg, folder, model),
        changed=changed_keys(cfg),
    )
    path = folder / REPORT_FILE
    write_text_atomically(path, _render(page))
    return path


def _tiles(run: Run, datasets: dict[str, DatasetSection | Missing]) -> list[Tile]:
    tiles = []
    done = next((section for section in datasets.values() if isinstance(section, DatasetSection)), None)
    if done is not None:
        tiles += [Tile(name, _percent(value)) for name, value in done.scores.headline.items()]
    tiles.append(Tile("iterations", f"{run.iterations_done} / {run.cfg.SOLVER.MAX_ITER}"))
    times = run.metrics.get("time")
    if times is not None:
        tiles.append(Tile("per iteration", f"{times.values.mean():.2f} s"))
        tiles.append(Tile("training", _duration(times.values.mean() * run.iterations_done)))
    if done is not None:
        tiles.append(Tile("test images", f"{done.num_images}"))
    return tiles


def _render(page: Page) -> str:
    environment = Environment(
        loader=PackageLoader("detkit.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.tests["missing"] = lambda section: isinstance(section, Missing)
    colors = {"found": FOUND, "missed": MISSED, "hit": HIT, "false": FALSE, "crowd": CROWD}
    return environment.get_template("page.html.jinja").render(page=page, colors=colors, nan=math.nan)


def _percent(value: Any) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
