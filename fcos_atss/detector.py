"""The two meta-architectures. They differ in their parts alone, which their config keys name."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from detkit.dense import DenseDetector
from detkit.dense.parts import dense_parts_from_config

__all__ = ["FCOS", "ATSS"]


@META_ARCH_REGISTRY.register()
class FCOS(DenseDetector):
    """Fully convolutional one-stage detector (Tian et al., ICCV 2019): every location inside a box regresses its four sides."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """See :class:`detkit.dense.DenseDetector`."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return dense_parts_from_config(cfg, cfg.MODEL.FCOS)


@META_ARCH_REGISTRY.register()
class ATSS(DenseDetector):
    """Adaptive training sample selection (Zhang et al., CVPR 2020): positives by the statistics of their candidates' IoU."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """See :class:`detkit.dense.DenseDetector`."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return dense_parts_from_config(cfg, cfg.MODEL.ATSS)
