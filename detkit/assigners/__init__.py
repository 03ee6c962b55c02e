"""Label assigners: which prior is responsible for which object."""

from .atss import ATSSAssigner
from .autoassign import AutoAssignAssigner
from .base import AssignContext, Assigner
from .centroid import CentroidAssigner
from .dw import DWAssigner
from .fcos import FCOSAssigner
from .foveabox import FoveaBoxAssigner
from .gfl import GFLAssigner
from .hungarian import HungarianAssigner
from .iou import IoUAssigner
from .matching import NonFiniteCostError
from .musu import MuSuAssigner
from .onenet import OneNetAssigner
from .ota import OTAAssigner
from .paa import PAAAssigner
from .poto import POTOAssigner
from .predicted_atss import PredictedATSSAssigner
from .quality_atss import QualityATSSAssigner
from .registry import ASSIGNER_REGISTRY, build_assigner
from .simota import SimOTAAssigner
from .soft import Assignment, BagAssignment, Pairs, PairValues, SoftAssignment
from .task_aligned import TaskAlignedAssigner
from .vfl import VFLAssigner

__all__ = [
    "AutoAssignAssigner",
    "FoveaBoxAssigner",
    "GFLAssigner",
    "MuSuAssigner",
    "OTAAssigner",
    "OneNetAssigner",
    "PAAAssigner",
    "POTOAssigner",
    "QualityATSSAssigner",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "VFLAssigner",
    "ASSIGNER_REGISTRY",
    "ATSSAssigner",
    "AssignContext",
    "Assigner",
    "CentroidAssigner",
    "DWAssigner",
    "FCOSAssigner",
    "HungarianAssigner",
    "IoUAssigner",
    "Assignment",
    "BagAssignment",
    "PairValues",
    "Pairs",
    "NonFiniteCostError",
    "PredictedATSSAssigner",
    "SoftAssignment",
    "build_assigner",
]
