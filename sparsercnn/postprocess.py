"""From the predictions of a stage to detections: no threshold, no NMS."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detkit.layers import best_indices, gather_rows
from detkit.structures import Detections

__all__ = ["SetPostprocessor"]


class SetPostprocessor:
    """The best predictions of each image.

    Args:
        max_detections: kept per image.
        activation: ``"sigmoid"``: all pairs of proposal and class compete; ``"softmax"``: each proposal has its best class other than
            "no object", the last logit.
    """

    def __init__(self, *, max_detections: int = 100, activation: Literal["sigmoid", "softmax"] = "sigmoid") -> None:
        self.max_detections = max_detections
        self.activation = activation

    def __call__(self, logits: Tensor, boxes: Tensor) -> Detections:
        """Detections of a batch, best first, in pixels of the network's input. Of equal scores, the first proposal and class go first.

        Args:
            logits: (B, N, K), or (B, N, K + 1) for ``"softmax"``.
            boxes: (B, N, 4) xyxy in pixels.
        """
        scores, classes, index = self._best(logits.float())
        return Detections(gather_rows(boxes, index), scores, classes, counts=torch.ones_like(index).sum(1))

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, classes and proposals, all (B, D)."""
        if self.activation == "softmax":
            probabilities, classes = logits.softmax(-1)[..., :-1].max(-1)
            index = best_indices(probabilities, self.max_detections)
            return probabilities.gather(1, index), classes.gather(1, index), index
        probabilities, num_classes = logits.sigmoid().flatten(1), logits.shape[-1]
        pair = best_indices(probabilities, self.max_detections)
        return probabilities.gather(1, pair), pair % num_classes, torch.div(pair, num_classes, rounding_mode="floor")
