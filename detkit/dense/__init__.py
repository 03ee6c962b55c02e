"""Everything that belongs to a dense detector: priors, heads, losses, post-processing, and the detector made of them."""

from .detector import DenseDetector
from .postprocess import DensePostprocessor

__all__ = ["DenseDetector", "DensePostprocessor"]
