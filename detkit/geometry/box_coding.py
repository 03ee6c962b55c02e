"""What a regression branch means: raw outputs to boxes and back.

Invariant of every coder: ``decode(encode(boxes, priors), priors) == boxes`` for boxes that the coding can represent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .boxes import box_centers, box_sizes, boxes_to_ltrb, ltrb_to_boxes
from .grid import ChosenPriors, Priors

__all__ = ["BoxCoder", "PointBoxCoder", "DeltaBoxCoder"]

#: bound of the raw distances whose exponential is taken: an infinite one makes the gradient NaN even where no loss depends on it
MAX_EXPONENT = 80.0


class BoxCoder(ABC):
    """Translates between raw regression outputs (..., P, 4) and boxes xyxy in pixels (..., P, 4), of all priors or of chosen ones."""

    @abstractmethod
    def decode(self, raw: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        """Boxes of raw outputs."""

    @abstractmethod
    def encode(self, boxes: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        """Raw outputs that decode to the boxes: the regression target."""

    @abstractmethod
    def iou_unit(self, priors: Priors | ChosenPriors) -> Tensor:
        """Length in pixels, per prior, in which a box loss that is not scale-free (IoU with +1) is computed."""


class PointBoxCoder(BoxCoder):
    """Distances from a location to the left, top, right and bottom side (FCOS, equations 1 and 2).

    Example::

        >>> grid = Grid(sizes=((1, 2),), strides=(8,), offset=0.5, device=torch.device("cpu"))
        >>> priors = Priors(grid, square_anchors(grid.strides))
        >>> PointBoxCoder("relu").decode(torch.ones(1, 2, 4), priors).tolist()
        [[[-4.0, -4.0, 12.0, 12.0], [4.0, -4.0, 20.0, 12.0]]]

    Args:
        form: ``"exp"``: ``exp(raw)`` pixels (FCOS as published, section 3.2); ``"relu"``: ``relu(raw)`` strides, the improved FCOS
            (normalized targets), AdelaiDet, Detectron2, mmdetection's "normbbox" and DW; ``"exp_stride"``: ``exp(raw)`` strides;
            ``"linear"``: ``raw`` strides, so that the location may lie outside the box (heads that decode by themselves, as TOOD's).
    """

    def __init__(self, form: Literal["exp", "relu", "exp_stride", "linear"] = "exp") -> None:
        if form not in ("exp", "relu", "exp_stride", "linear"):
            raise ValueError(f"A point box coder's form is 'exp', 'relu', 'exp_stride' or 'linear', not '{form}'.")
        self.form = form

    def decode(self, raw: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        return ltrb_to_boxes(self.distances(raw) * self.iou_unit(priors)[..., None], priors.points)

    def encode(self, boxes: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        distances = boxes_to_ltrb(boxes, priors.points) / self.iou_unit(priors)[..., None]
        return distances.log() if self.form.startswith("exp") else distances

    def iou_unit(self, priors: Priors | ChosenPriors) -> Tensor:
        return torch.ones_like(priors.strides) if self.form == "exp" else priors.strides

    def distances(self, raw: Tensor) -> Tensor:
        """Distances in the coder's own unit (pixels for ``exp``, strides otherwise), non-negative but for ``linear``."""
        if self.form == "linear":
            return raw
        return raw.relu() if self.form == "relu" else raw.clamp(max=MAX_EXPONENT).exp()


class DeltaBoxCoder(BoxCoder):
    """Offsets of center and log-size relative to an anchor (R-CNN; RetinaNet and ATSS use it).

    Example::

        >>> coder = DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        >>> coder.apply(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 20.0, 40.0]])).tolist()
        [[2.0, 0.0, 22.0, 40.0]]

    Args:
        weights: what dx, dy, dw, dh are divided by when decoding; ATSS (10, 10, 5, 5).
        scale_clamp: upper bound of the decoded log-sizes, ln(1000/16) in RetinaNet and ATSS.
        clamp_below: also bound them from below by ``-scale_clamp``, as mmdetection does.
    """

    def __init__(
        self,
        weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        *,
        scale_clamp: float = math.log(1000.0 / 16),
        clamp_below: bool = False,
    ) -> None:
        self.weights = tuple(float(w) for w in weights)
        self.scale_clamp = scale_clamp
        self.clamp_below = clamp_below

    def decode(self, raw: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        return self.apply(raw, priors.boxes, priors.plus_one)

    def apply(self, raw: Tensor, boxes: Tensor, plus_one: float = 0.0) -> Tensor:
        """Boxes (..., 4) of raw outputs relative to any boxes (..., 4), which need not stand on a grid."""
        centers, sizes = _centers_sizes(boxes, plus_one)
        shifts, log_sizes = (
            _divided(x, weights) for x, weights in zip(raw.split(2, -1), (self.weights[:2], self.weights[2:]), strict=True)
        )
        log_sizes = log_sizes.clamp(min=-self.scale_clamp if self.clamp_below else None, max=self.scale_clamp)
        new_centers = shifts * sizes + centers
        half = _grown(log_sizes.exp() * sizes, -plus_one) / 2
        return torch.cat([new_centers - half, new_centers + half], dim=-1)

    def encode(self, boxes: Tensor, priors: Priors | ChosenPriors) -> Tensor:
        centers, sizes = _centers_sizes(priors.boxes, priors.plus_one)
        box_centers, box_sizes = _centers_sizes(boxes, priors.plus_one)
        deltas = torch.cat([(box_centers - centers) / sizes, (box_sizes / sizes).log()], dim=-1)
        return torch.stack([delta * weight for delta, weight in zip(deltas.unbind(-1), self.weights, strict=True)], dim=-1)

    def iou_unit(self, priors: Priors | ChosenPriors) -> Tensor:
        return torch.ones_like(priors.strides)


def _divided(raw: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Two columns (..., 2), each divided by a number of its own. As a tensor, different numbers would have to be copied to the device."""
    if weights[0] == weights[1]:
        return raw / weights[0]
    return torch.stack([column / weight for column, weight in zip(raw.unbind(-1), weights, strict=True)], dim=-1)


def _centers_sizes(boxes: Tensor, plus_one: float) -> tuple[Tensor, Tensor]:
    """Centers and sizes (..., 2) of boxes; the legacy convention adds one pixel to the sizes and keeps the middle."""
    return box_centers(boxes), _grown(box_sizes(boxes), plus_one)


def _grown(sizes: Tensor, plus_one: float) -> Tensor:
    return sizes + plus_one if plus_one else sizes
