"""Label assigners: which prior answers for which object."""

from .base import AssignContext, Assigner, GroundTruth, HardAssignment, Predictions, SoftAssignment
from .registry import ASSIGNER_REGISTRY, build_assigner

__all__ = [
    "ASSIGNER_REGISTRY",
    "AssignContext",
    "Assigner",
    "GroundTruth",
    "HardAssignment",
    "Predictions",
    "SoftAssignment",
    "build_assigner",
]
