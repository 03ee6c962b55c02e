"""Prediction-aware one-to-one assignment (Wang et al., End-to-End Object Detection with Fully Convolutional Network, CVPR 2021, arXiv
2012.03544, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .candidates import center_distance, hard_labels, points_inside
from .matching import match_pairs
from .one_to_one import best_pairs, greedy_matching
from .pair_costs import matching_quality
from .registry import ASSIGNER_REGISTRY
from .soft import Pairs

__all__ = ["POTOAssigner"]


@ASSIGNER_REGISTRY.register()
class POTOAssigner(Assigner):
    """Each object gets one location, so that the qualities ``score ** (1 - alpha) * IoU ** alpha`` of all objects sum up to the most; all
    other locations are background.

    The spatial prior: candidates lie inside the object, less than ``center_radius`` strides from its center on each axis, on every level.
    An object without a location inside gets none (the authors' code gives it one anywhere), and as many objects as possible get one.

    Args:
        alpha: how much the box counts beside the class (0.8).
        center_radius: in strides (1.5); 0: the whole object.
        matching: ``"hungarian"`` finds the best sum on the host, which waits for the device once; ``"greedy"`` takes the best pair of all,
            then the best of what is left, and waits for nothing. The two differ only where objects want the same location.
    """

    config_section = "POTO"
    needs_predictions = True

    def __init__(self, *, alpha: float = 0.8, center_radius: float = 1.5, matching: Literal["hungarian", "greedy"] = "hungarian") -> None:
        super().__init__()
        if matching not in ("hungarian", "greedy"):
            raise ValueError(f"matching must be 'hungarian' or 'greedy', not '{matching}'.")
        self.alpha, self.center_radius, self.matching = alpha, center_radius, matching

    def forward(self, context: AssignContext) -> HardAssignment:
        """Waits for the device once with ``"hungarian"``, for the qualities of all images.

        Raises:
            NonFiniteCostError: with ``"hungarian"``: predictions are NaN; ``problems`` are the positions of the images.
        """
        pairs, num_gts = points_inside(context), context.gt.valid.shape[1]
        quality = self._quality(pairs, context)
        best, kept = best_pairs(quality, pairs, num_gts)
        return hard_labels(kept, context, self._match(quality.index_select(0, best), kept, context))

    def _quality(self, pairs: Pairs, context: AssignContext) -> Tensor:
        """(M,) in [0, 1] of the pairs, -inf far from the center."""
        quality = matching_quality(pairs.look_up(context.given_predictions, context.gt), self.alpha)
        if not self.center_radius:
            return quality
        near = center_distance(pairs, context.gt, context.grid_priors).abs().amax(-1) < self.center_radius
        return torch.where(near, quality, -torch.inf)

    def _match(self, quality: Tensor, pairs: Pairs, context: AssignContext) -> Tensor:
        """(N,) bool, which pairs are matched."""
        batch, num_gts = context.gt.valid.shape
        if self.matching == "hungarian":
            return match_pairs(quality, pairs, batch)
        return greedy_matching(quality, pairs, batch * num_gts, batch * context.grid_priors.num_priors, num_gts)
