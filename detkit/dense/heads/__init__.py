"""Heads that several methods share."""

from .dense_head import DenseHead
from .max_filtering_head import MaxFilteringHead
from .registry import DENSE_HEAD_REGISTRY, build_dense_head
from .tood_head import TOODHead, aligned_logits

__all__ = ["DENSE_HEAD_REGISTRY", "DenseHead", "MaxFilteringHead", "TOODHead", "aligned_logits", "build_dense_head"]
