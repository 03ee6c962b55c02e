"""Evaluators, average precision, precision-recall curves and the quality of single images."""

from .coco import AveragePrecision, CocoEvaluation, Task
from .crowdhuman import CrowdHumanEvaluator
from .crowdhuman_metrics import CrowdMetrics, CrowdScene, crowd_metrics
from .detections import DetectionEvaluator, detection_limit
from .evaluators import build_evaluator, inference_folder
from .files import DETECTIONS_FILE, EvaluationError, coco_of, read_detections, read_ground_truth, read_unreadable
from .image_quality import ImageQuality, best_score_threshold, image_qualities
from .mistakes import Mistake, why_false
from .proposals import proposals_in_outputs

__all__ = [
    "DETECTIONS_FILE",
    "AveragePrecision",
    "CocoEvaluation",
    "CrowdHumanEvaluator",
    "CrowdMetrics",
    "CrowdScene",
    "DetectionEvaluator",
    "EvaluationError",
    "ImageQuality",
    "Mistake",
    "Task",
    "best_score_threshold",
    "build_evaluator",
    "coco_of",
    "crowd_metrics",
    "detection_limit",
    "image_qualities",
    "inference_folder",
    "proposals_in_outputs",
    "read_detections",
    "read_ground_truth",
    "read_unreadable",
    "why_false",
]
