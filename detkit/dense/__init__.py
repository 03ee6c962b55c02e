"""Everything that belongs to a dense detector: priors, heads, losses, post-processing, and the detector made of them."""

from .detector import DenseDetector
from .pipeline import DensePipeline, decode_outputs
from .postprocess import DensePostprocessor
from .priors import PriorGenerator

__all__ = ["DenseDetector", "DensePipeline", "DensePostprocessor", "PriorGenerator", "decode_outputs"]
