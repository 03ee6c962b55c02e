"""The meta-architecture: a dense detector whose classification score is class times objectness."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY

from detkit.dense import DenseDetector

__all__ = ["DW"]


@META_ARCH_REGISTRY.register()
class DW(DenseDetector):
    """Dual weighting (Li et al., CVPR 2022): every candidate of an object has a positive and a negative weight of its own."""
