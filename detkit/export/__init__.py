"""Detectors outside PyTorch: pure functions of tensors, and what is made of them."""

from .program import DETECTION_NAMES, DetectorProgram

__all__ = ["DETECTION_NAMES", "DetectorProgram"]
