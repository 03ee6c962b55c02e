"""What decides the labels of a dense detector, without its network: a grid with anchors, and an assigner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from detkit.assigners import Assigner, FCOSAssigner, IoUAssigner, build_assigner
from detkit.config import ConfigError, method_node
from detkit.dense.parts import prior_generator_from_config
from detkit.dense.pipeline import DensePipeline
from detkit.dense.priors import PriorGenerator
from detkit.geometry import Priors, square_anchors
from detkit.structures import GroundTruth, HardAssignment

__all__ = ["AssignmentSetting", "fcos", "retinanet"]

FPN_STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class AssignmentSetting:
    """Which priors there are on an image, and which of them learn which object.

    Attributes:
        name: in tables and plots.
        assigner: one that needs no predictions.
        prior_generator: makes the priors.
        size_divisibility: images are padded to multiples of this many pixels, as a Detectron2 pyramid asks for.
    """

    name: str
    assigner: Assigner
    prior_generator: PriorGenerator
    size_divisibility: int = 32

    def __post_init__(self) -> None:
        if self.assigner.needs_predictions:
            raise ValueError(
                f"{self.name}: {type(self.assigner).__name__} reads predictions, so its labels change during training. "
                "Recall bounds and counts are defined for assigners that see the grid and the objects alone."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str) -> AssignmentSetting:
        """The setting of a dense detector's config; strides follow from the names of ``IN_FEATURES`` (p3 is 8 pixels).

        Raises:
            ConfigError: the meta-architecture is no dense detector of this project, or its assigner reads predictions.
        """
        node = method_node(cfg)
        if "ASSIGNER" not in node or "ANCHORS" not in node:
            raise ConfigError(f"{name}: MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}', which has no grid to assign from.")
        strides = [2 ** int(feature.lstrip("pres")) for feature in node.IN_FEATURES]
        assigner = build_assigner(node.ASSIGNER, cfg, key=f"{node.path}.ASSIGNER", num_classes=node.NUM_CLASSES)
        return cls(name, assigner, prior_generator_from_config(node, strides, 1.0 if node.PLUS_ONE else 0.0))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, from fine to coarse, in pixels."""
        return self.prior_generator.strides

    @property
    def level_names(self) -> tuple[str, ...]:
        """("P3", "P4", ...)"""
        return tuple(f"P{stride.bit_length() - 1}" for stride in self.strides)

    def priors(self, image_size: tuple[int, int]) -> Priors:
        """The priors of an image of (height, width) pixels, after padding."""
        return self.prior_generator.for_image(image_size, self.size_divisibility)

    def assign(self, gt: GroundTruth, priors: Priors) -> HardAssignment:
        """Labels of a batch of images that share the priors."""
        assignment = DensePipeline(self.prior_generator, self.assigner).assign(priors, gt)
        if not isinstance(assignment, HardAssignment):
            raise ValueError(f"{self.name}: {type(self.assigner).__name__} weights pairs; only hard labels can be counted.")
        return assignment


def fcos(*, single_level: int | None = None, center_radius: float = 0.0) -> AssignmentSetting:
    """FCOS as in its Tables 1 and 2: all levels with their ranges, or one level (4 for P4) that is responsible for every size."""
    strides = FPN_STRIDES if single_level is None else (2**single_level,)
    sizes_of_interest = (64, 128, 256, 512) if single_level is None else ()
    name = "FCOS" + (", center sampling" if center_radius else "") + (f", P{single_level} only" if single_level else "")
    assigner = FCOSAssigner(sizes_of_interest=sizes_of_interest, center_radius=center_radius)
    return AssignmentSetting(name, assigner, PriorGenerator(strides=strides, cell_anchors=square_anchors(strides)))


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
    anchors = square_anchors(FPN_STRIDES, octaves, (0.5, 1.0, 2.0))
    return AssignmentSetting(name, assigner, PriorGenerator(strides=FPN_STRIDES, cell_anchors=anchors, offset=0.0))
