"""The formulas of dual weighting by themselves: P_neg over IoU (DW, figure 3), and the paper's weights beside the published code's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from detkit.assigners.dw import (
    official_negative_probability,
    official_positive_weight,
    paper_negative_probability,
    paper_positive_weight,
)

__all__ = ["formula_rows", "plot_negative_probability"]


def plot_negative_probability(*, gammas: Sequence[float] = (1, 2, 3, 4, 5), best_ious: Sequence[float] = (0.7, 0.8, 0.9, 1.0)) -> Figure:
    """P_neg over the IoU: the paper's curves for several gamma1 (DW, figure 3), and what the published code makes of gamma1 = 2.

    Args:
        gammas: gamma1 of the paper's curves.
        best_ious: the code stretches P_neg so that it is 0 for the best candidate of an object; one curve for each IoU of that one.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    paper, official = figure.subplots(1, 2, sharey=True)
    iou = torch.linspace(0.4, 1, 601)
    for gamma in gammas:
        paper.plot(iou, paper_negative_probability(iou, gamma1=gamma), label=f"$\\gamma_1$ = {gamma:g}")
    for best in best_ious:
        candidates = iou[iou <= best + 1e-6]
        official.plot(candidates, _alone(official_negative_probability, candidates), label=f"best candidate {best:g}")
    official.plot(iou, paper_negative_probability(iou), color="black", linestyle=":", label="paper")
    for axes, title in ((paper, "equation 6"), (official, "official code, $\\gamma_1$ = 2")):
        axes.set(title=title, xlabel="IoU of the predicted box", xlim=(0.4, 1), ylim=(-0.03, 1.05))
        axes.legend(fontsize=8)
    paper.set_ylabel("$P_{neg}$")
    return figure


def formula_rows(
    scores: Sequence[float] = (0.1, 0.5, 0.9), ious: Sequence[float] = (0.4, 0.55, 0.7, 0.85, 0.95)
) -> dict[str, dict[str, float]]:
    """Both formulas at some scores and IoUs, for an object whose candidates are a grid of all scores and IoUs from 0 to 1 in steps of 0.05.

    The box loss of the code's formula is 1 - IoU, as of boxes whose hull with the object is their union; there is no center prior. Positive
    weights are percentages of the largest of the bag; the last row has their sum over the bag, 1 by the paper.
    """
    axis = torch.linspace(0, 1, 21)
    score, iou = (x.flatten() for x in torch.meshgrid(axis, axis, indexing="ij"))
    one = torch.ones_like(score)
    positive = {
        "paper": _alone(paper_positive_weight, score, iou, one),
        "code": _alone(official_positive_weight, score, 1 - iou, one),
    }
    negative = {"paper": paper_negative_probability(iou), "code": _alone(official_negative_probability, iou)}
    rows: dict[str, dict[str, float]] = {}
    for s in scores:
        for v in ious:
            at = int(((score - s).abs() + (iou - v).abs()).argmin())
            row = {f"w_pos %, {name}": 100 * float(weight[at] / weight.max()) for name, weight in positive.items()}
            row |= {f"P_neg, {name}": float(probability[at]) for name, probability in negative.items()}
            rows[f"s {s:g}, IoU {v:g}"] = row | {f"w_neg, {name}": float(negative[name][at] * s**2) for name in negative}
    rows["sum of w_pos"] = {f"w_pos %, {name}": float(weight.sum()) for name, weight in positive.items()}
    return rows


def _alone(formula: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """A formula for one object that has all candidates."""
    return formula(*values, torch.zeros(len(values[0]), dtype=torch.int64), 1)
