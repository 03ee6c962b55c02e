"""Label assigners: which prior answers for which object."""

from .atss import ATSSAssigner
from .base import AssignContext, Assigner, GroundTruth, HardAssignment, Predictions, SoftAssignment
from .fcos import FCOSAssigner
from .iou import IoUAssigner
from .registry import ASSIGNER_REGISTRY, build_assigner

__all__ = [
    "ASSIGNER_REGISTRY",
    "ATSSAssigner",
    "AssignContext",
    "Assigner",
    "FCOSAssigner",
    "GroundTruth",
    "HardAssignment",
    "IoUAssigner",
    "Predictions",
    "SoftAssignment",
    "build_assigner",
]
