"""What the summed losses of a batch are divided by. Counts are averaged over the workers, once per step.

Each is a module called with ``positive`` (B, P) bool and ``box_weights`` (B, P), the weights of the box loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detkit.distributed import reduce_mean

__all__ = [
    "AllPriorsNormalizer",
    "Denominators",
    "MovingAverageNormalizer",
    "MovingClassNormalizer",
    "Normalizer",
    "PositivesNormalizer",
]


class Denominators(NamedTuple):
    """Positive scalars for the sums of the three loss terms."""

    cls: Tensor
    box: Tensor
    quality: Tensor


class Normalizer(nn.Module):
    """From the positives of a batch to denominators. A module, so that running averages travel with the checkpoint."""

    def forward(self, positive: Tensor, box_weights: Tensor) -> Denominators:
        raise NotImplementedError


class PositivesNormalizer(Normalizer):
    """Classes and quality by the number of positives, boxes by the sum of their weights (tianzhi0549/FCOS, ATSS).

    Args:
        min_positives_per_image: an image with fewer positives counts as having so many (mmdetection's anchor heads, LSNet: 1).
        min_box: lower bound of the sum of box weights (mmdetection: 1 for ATSS, 1e-6 for FCOS).
    """

    def __init__(self, *, min_positives_per_image: float = 0.0, min_box: float = 1e-6) -> None:
        super().__init__()
        self.min_positives_per_image = min_positives_per_image
        self.min_box = min_box

    def forward(self, positive: Tensor, box_weights: Tensor) -> Denominators:
        positives = positive.sum(1).clamp(min=self.min_positives_per_image).sum()
        positives, weights, others = reduce_mean(
            torch.stack([positives.to(box_weights), box_weights.sum(), *self._others(positive, box_weights)])
        ).tensor_split((1, 2))
        positives = positives.squeeze(0).clamp(min=1)
        return self._denominators(positives, weights.squeeze(0).clamp(min=self.min_box), others)

    def _others(self, positive: Tensor, box_weights: Tensor) -> list[Tensor]:
        """What else is averaged over the workers, in the same round."""
        return []

    def _denominators(self, positives: Tensor, weights: Tensor, others: Tensor) -> Denominators:
        return Denominators(positives, weights, positives)


class AllPriorsNormalizer(PositivesNormalizer):
    """As :class:`PositivesNormalizer`, but classes by the number of all priors (AdelaiDet's ``LOSS_NORMALIZER_CLS: "all"``)."""

    def _others(self, positive: Tensor, box_weights: Tensor) -> list[Tensor]:
        return [box_weights.new_full((), positive.numel())]

    def _denominators(self, positives: Tensor, weights: Tensor, others: Tensor) -> Denominators:
        return Denominators(others.squeeze(0), weights, positives)


class MovingClassNormalizer(PositivesNormalizer):
    """As :class:`PositivesNormalizer`, but classes by an exponential moving average of the number of positives (AdelaiDet's
    ``LOSS_NORMALIZER_CLS: "moving_fg"``).

    Args:
        start: of the average.
        momentum: how much of the average stays at a step.
        min_box: see :class:`PositivesNormalizer`.
    """

    average: Tensor

    def __init__(self, *, start: float = 100.0, momentum: float = 0.9, min_box: float = 1e-6) -> None:
        super().__init__(min_box=min_box)
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(start))

    def forward(self, positive: Tensor, box_weights: Tensor) -> Denominators:
        denominators = super().forward(positive, box_weights)
        self.average.mul_(self.momentum).add_(denominators.cls, alpha=1 - self.momentum)
        return denominators._replace(cls=self.average.clone())


class MovingAverageNormalizer(MovingClassNormalizer):
    """All three terms by one moving average of the number of positives (Detectron2's FCOS, which does not reduce it over workers)."""

    def __init__(self, *, start: float = 300.0, momentum: float = 0.9) -> None:
        super().__init__(start=start, momentum=momentum)

    def forward(self, positive: Tensor, box_weights: Tensor) -> Denominators:
        average = super().forward(positive, box_weights).cls
        return Denominators(average, average, average)
