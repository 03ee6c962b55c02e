"""The two meta-architectures. They differ in their parts alone, which their config keys name."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY

from detkit.dense import DenseDetector

__all__ = ["FCOS", "ATSS"]


@META_ARCH_REGISTRY.register()
class FCOS(DenseDetector):
    """Fully convolutional one-stage detector (Tian et al., ICCV 2019): every location inside a box regresses its four sides."""


@META_ARCH_REGISTRY.register()
class ATSS(DenseDetector):
    """Adaptive training sample selection (Zhang et al., CVPR 2020): positives by the statistics of their candidates' IoU."""
