"""FoveaBox's label assignment (Kong et al., FoveaBox: Beyond Anchor-Based Object Detection, IEEE TIP 2020, sections III-B and III-C)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detkit.geometry import box_areas
from detkit.host import on_host
from detkit.structures import GroundTruth, HardAssignment

from .base import AssignContext, Assigner
from .candidates import hard_labels, points_inside
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each

__all__ = ["FoveaBoxAssigner"]


@ASSIGNER_REGISTRY.register()
class FoveaBoxAssigner(Assigner):
    """The locations in the middle of an object are positive, on every level whose range of scales holds it.

    A location in the middle of several objects goes to the smallest, then to the lowest index. Everything else is background, as in
    mmdetection (the paper ignores a ring around the middle).

    Args:
        sizes: basic side of objects on each level, in pixels (32 to 512 for P3 to P7).
        eta: a level takes objects with the root of their area in ``[size / eta, size * eta]`` (equation 2: 2).
        sigma: the middle is the box shrunk by this factor around its center (mmdetection: 0.4).
    """

    config_section = "FOVEABOX"
    level_sizes: Tensor

    def __init__(self, *, sizes: Sequence[float] = (32, 64, 128, 256, 512), eta: float = 2.0, sigma: float = 0.4) -> None:
        super().__init__()
        if eta <= 1 or not 0 < sigma <= 1:
            raise ValueError(f"eta must exceed 1 and sigma lie in (0, 1], not {eta} and {sigma}.")
        self.sizes, self.eta, self.sigma = tuple(sizes), eta, sigma
        self.register_buffer("level_sizes", torch.tensor(self.sizes, dtype=torch.float32), persistent=False)

    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        if priors.grid.num_levels != len(self.sizes):
            raise ValueError(
                f"MODEL.ASSIGNERS.FOVEABOX.SIZES {list(self.sizes)} is for {len(self.sizes)} levels, but the detector has "
                f"{priors.grid.num_levels} (IN_FEATURES). Give one size per level."
            )
        pairs = points_inside(context, self._middles(gt))
        areas = box_areas(pairs.gt_boxes(gt))
        ratio = areas.sqrt() / self.level_sizes[priors.levels_of(pairs.prior_index % priors.num_priors)]
        fitting = (ratio >= 1 / self.eta) & (ratio <= self.eta)
        return hard_labels(pairs, context, best_of_each(-areas, pairs.prior_index, among=fitting))

    def _middles(self, gt: GroundTruth) -> np.ndarray:
        low, high = np.split(on_host(gt.boxes), 2, axis=-1)
        centers, reach = (low + high) / 2, np.float32(self.sigma) * (high - low) / 2
        return np.concatenate([centers - reach, centers + reach], axis=-1)
