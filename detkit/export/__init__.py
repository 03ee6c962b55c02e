"""Detectors outside PyTorch: pure functions of tensors, and the files that are made of them."""

from .check import Agreement, compare_outputs, example_inputs, open_exported, verify
from .evaluation import OnnxModel, to_instances
from .export import export_detector
from .formats import FORMATS, export_program
from .program import DETECTION_NAMES, DetectorProgram
from .settings import ExportError, ExportSettings, metadata_of

__all__ = [
    "DETECTION_NAMES",
    "FORMATS",
    "Agreement",
    "DetectorProgram",
    "ExportError",
    "ExportSettings",
    "OnnxModel",
    "compare_outputs",
    "example_inputs",
    "export_detector",
    "export_program",
    "metadata_of",
    "open_exported",
    "to_instances",
    "verify",
]
