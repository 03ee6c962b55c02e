"""How many positive samples an object gets, by its size and by level (ATSS, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .images import LabeledImage
from .settings import AssignmentSetting

__all__ = ["PositiveCounts", "count_positives", "plot_positives"]

#: COCO's bounds between small, medium and large objects, in square pixels of the original image
AREA_BOUNDS = (32.0**2, 96.0**2)
SIZE_NAMES = ("small", "medium", "large")


@dataclass(frozen=True)
class PositiveCounts:
    """The positives of every object of a dataset.

    Attributes:
        level_names: of the L levels.
        per_level: (N, L) number of positives of each object.
        areas: (N,) box areas in pixels of the original images.
    """

    level_names: tuple[str, ...]
    per_level: Tensor
    areas: Tensor

    @property
    def totals(self) -> Tensor:
        """(N,) positives of each object on all levels."""
        return self.per_level.sum(1)

    def rows(self) -> dict[str, dict[str, float]]:
        """Per size (and for all objects): the number of objects, mean and standard deviation of their positives, and the mean per level."""
        sizes = torch.bucketize(self.areas, torch.tensor(AREA_BOUNDS), right=True)
        groups = {name: sizes == number for number, name in enumerate(SIZE_NAMES)} | {"all": torch.ones_like(sizes, dtype=torch.bool)}
        return {name: self._row(chosen) for name, chosen in groups.items()}

    def _row(self, chosen: Tensor) -> dict[str, float]:
        totals, per_level = self.totals[chosen].double(), self.per_level[chosen].double()
        row = {"objects": int(chosen.sum()), "mean": _mean(totals), "std": float(totals.std()) if len(totals) > 1 else float("nan")}
        return row | {name: _mean(per_level[:, level]) for level, name in enumerate(self.level_names)}


def count_positives(setting: AssignmentSetting, images: Iterable[LabeledImage]) -> PositiveCounts:
    """Counts the positives of every object, after each sample has chosen one object."""
    counts, areas = [torch.zeros(0, len(setting.strides), dtype=torch.int64)], [torch.zeros(0)]
    for image in images:
        priors = setting.priors(image.size)
        labels = setting.assign(image.gt, priors).gt_index[0]
        chosen = (labels >= 0).nonzero().squeeze(1)
        levels, num_objects, num_levels = priors.levels_of(chosen), len(image.areas), len(setting.strides)
        flat = torch.bincount(labels[chosen] * num_levels + levels, minlength=num_objects * num_levels)
        counts.append(flat.view(num_objects, num_levels))
        areas.append(image.areas)
    return PositiveCounts(setting.level_names, torch.cat(counts), torch.cat(areas))


def plot_positives(counts: dict[str, PositiveCounts], *, num_bins: int = 12) -> Figure:
    """Mean positives per object against the object's size, one line per setting, over bins of equal numbers of objects."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, each in counts.items():
        order = each.areas.argsort()
        bins = [chunk for chunk in order.tensor_split(num_bins) if len(chunk)]
        sides = [float(each.areas[chunk].sqrt().median()) for chunk in bins]
        axes.plot(sides, [_mean(each.totals[chunk].double()) for chunk in bins], marker="o", markersize=4, label=name)
    axes.set(xscale="log", xlabel="square root of the box area [pixels of the original image]", ylabel="positives per object")
    axes.set_ylim(bottom=0)
    axes.set_xticks([10, 20, 50, 100, 200, 500], labels=["10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
