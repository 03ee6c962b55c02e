"""What decides the labels of a dense detector, without its network: a grid with anchors, and an assigner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from detkit.assigners import AssignContext, Assigner, FCOSAssigner, IoUAssigner, build_assigner
from detkit.geometry import Grid, Priors, square_anchors
from detkit.structures import GroundTruth, HardAssignment

__all__ = ["AssignmentSetting", "fcos", "retinanet"]

FPN_STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class AssignmentSetting:
    """Which priors there are on an image, and which of them learn which object.

    Attributes:
        name: in tables and plots.
        assigner: one that needs no predictions.
        strides: of the levels, from fine to coarse, in pixels.
        cell_anchors: per level (A, 4), see :func:`detkit.geometry.square_anchors`.
        offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.
        plus_one: see :class:`detkit.geometry.Priors`.
        size_divisibility: images are padded to multiples of this many pixels, as a Detectron2 pyramid asks for.
    """

    name: str
    assigner: Assigner
    strides: tuple[int, ...]
    cell_anchors: tuple[Tensor, ...]
    offset: float = 0.5
    plus_one: float = 0.0
    size_divisibility: int = 32

    def __post_init__(self) -> None:
        if self.assigner.needs_predictions:
            raise ValueError(
                f"{self.name}: {type(self.assigner).__name__} looks at predictions, so its labels change during training. "
                "Recall bounds and counts are defined for assigners that see the grid and the objects alone."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str) -> AssignmentSetting:
        """The setting of a dense detector's config; strides follow from the names of ``IN_FEATURES`` (p3 is 8 pixels).

        Raises:
            ValueError: the meta-architecture is no dense detector of this project, or its assigner looks at predictions.
        """
        node = cfg.MODEL.get(cfg.MODEL.META_ARCHITECTURE)
        if node is None or "ASSIGNER" not in node or "ANCHORS" not in node:
            raise ValueError(f"{name}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no grid that an assigner could pick from.")
        strides = tuple(2 ** int(feature.lstrip("pres")) for feature in node.IN_FEATURES)
        plus_one = 1.0 if node.PLUS_ONE else 0.0
        anchors = square_anchors(
            strides,
            node.ANCHORS.SCALES,
            node.ANCHORS.RATIOS,
            plus_one,
            ratios_first=node.ANCHORS.RATIOS_FIRST,
            whole_pixels=node.ANCHORS.WHOLE_PIXELS,
        )
        return cls(name, build_assigner(node.ASSIGNER, cfg), strides, anchors, node.ANCHORS.OFFSET, plus_one)

    @property
    def level_names(self) -> tuple[str, ...]:
        """("P3", "P4", ...)"""
        return tuple(f"P{stride.bit_length() - 1}" for stride in self.strides)

    def priors(self, image_size: tuple[int, int]) -> Priors:
        """The priors of an image of (height, width) pixels, after padding."""
        height, width = (math.ceil(side / self.size_divisibility) * self.size_divisibility for side in image_size)
        sizes = tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in self.strides)
        return Priors(Grid(sizes, self.strides, self.offset, torch.device("cpu")), self.cell_anchors, self.plus_one)

    def assign(self, gt: GroundTruth, priors: Priors) -> HardAssignment:
        """Labels of a batch of images that share the priors."""
        assignment = self.assigner(AssignContext(gt=gt, priors=priors))
        if not isinstance(assignment, HardAssignment):
            raise ValueError(f"{self.name}: {type(self.assigner).__name__} weights pairs; only hard labels can be counted.")
        return assignment


def fcos(*, single_level: int | None = None, center_radius: float = 0.0) -> AssignmentSetting:
    """FCOS as in its Tables 1 and 2: all levels with their ranges, or one level (4 for P4) that answers for every size."""
    strides = FPN_STRIDES if single_level is None else (2**single_level,)
    sizes_of_interest = (64, 128, 256, 512) if single_level is None else ()
    name = "FCOS" + (", center sampling" if center_radius else "") + (f", P{single_level} only" if single_level else "")
    assigner = FCOSAssigner(sizes_of_interest=sizes_of_interest, center_radius=center_radius)
    return AssignmentSetting(name, assigner, strides, square_anchors(strides))


def retinanet(*, low_quality_from: float | None) -> AssignmentSetting:
    """RetinaNet's nine anchors per location and its thresholds (Focal Loss, section 4).

    Args:
        low_quality_from: an object's best anchors are positive too if their IoU is at least this: 0 for all of them, 0.4 for the
            official implementation (FCOS, section 4.1.1), None for none.
    """
    names = {None: "no low-quality matches", 0.0: "all low-quality matches"}
    name = f"RetinaNet, {names.get(low_quality_from, f'low-quality matches from {low_quality_from}')}"
    assigner = IoUAssigner(allow_low_quality=low_quality_from is not None, low_quality_from=low_quality_from or 0.0)
    octaves: Sequence[float] = [4 * 2 ** (i / 3) for i in range(3)]
    return AssignmentSetting(name, assigner, FPN_STRIDES, square_anchors(FPN_STRIDES, octaves, (0.5, 1.0, 2.0)), offset=0.0)
