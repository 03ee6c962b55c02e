"""What can be said about a detector without training it, and about detections without the detector that made them."""

from .ambiguous import AmbiguousDetections, ambiguous_detections
from .assigners import compare_assigners
from .convergence import plot_convergence, read_convergence
from .cost import Latency, ModelCost, count_cost, measure_latency
from .dual_weights import formula_rows, plot_negative_probability
from .images import LabeledImage, labeled_images
from .positives import PositiveCounts, count_positives, plot_positives
from .precision import class_agnostic_precision, plot_precision
from .recall import RecallBound, recall_bound
from .reported_speed import ReportedSpeed, reported_speed
from .results import markdown_table, save_figure, save_numbers
from .scores import ScoresAndOverlaps, plot_scores, scores_and_overlaps
from .settings import AssignmentSetting, fcos, retinanet
from .weightings import WeightMaps, plot_weight_maps, weight_maps

__all__ = [
    "AmbiguousDetections",
    "ambiguous_detections",
    "LabeledImage",
    "Latency",
    "ModelCost",
    "PositiveCounts",
    "ReportedSpeed",
    "RecallBound",
    "ScoresAndOverlaps",
    "AssignmentSetting",
    "WeightMaps",
    "class_agnostic_precision",
    "compare_assigners",
    "count_cost",
    "count_positives",
    "fcos",
    "formula_rows",
    "labeled_images",
    "measure_latency",
    "reported_speed",
    "markdown_table",
    "plot_convergence",
    "plot_negative_probability",
    "plot_positives",
    "plot_precision",
    "plot_scores",
    "plot_weight_maps",
    "read_convergence",
    "recall_bound",
    "retinanet",
    "save_figure",
    "save_numbers",
    "scores_and_overlaps",
    "weight_maps",
]
