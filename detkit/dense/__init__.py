"""Everything that belongs to a dense detector: priors, heads, losses, post-processing, and the detector made of them."""

from .detector import DenseDetector
from .pipeline import DensePipeline, decode_outputs
from .postprocess import DensePostprocessor
from .priors import PriorGenerator
from .tensor_path import TensorPath

__all__ = ["DenseDetector", "DensePipeline", "DensePostprocessor", "PriorGenerator", "TensorPath", "decode_outputs"]
