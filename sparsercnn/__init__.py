"""Sparse R-CNN: importing this package registers the meta-architecture."""

from .config import CONFIG_LIMITS, add_config
from .detector import SparseRCNN

__all__ = ["CONFIG_LIMITS", "SparseRCNN", "add_config"]
