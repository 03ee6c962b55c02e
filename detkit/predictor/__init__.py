"""From a trained detector to detections on images: config, weights, class names and device in one object."""

from .images import ImageLike, read_bgr
from .predictor import Predictor
from .result import NamedInstances

__all__ = ["ImageLike", "NamedInstances", "Predictor", "read_bgr"]
