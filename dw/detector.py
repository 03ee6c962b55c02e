"""The meta-architecture: a dense detector whose classification score is class times objectness."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from detkit.dense import DenseDetector
from detkit.dense.parts import dense_parts_from_config

__all__ = ["DW"]


@META_ARCH_REGISTRY.register()
class DW(DenseDetector):
    """Dual weighting (Li et al., CVPR 2022): every candidate of an object has a positive and a negative weight of its own."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """See :class:`detkit.dense.DenseDetector`."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return dense_parts_from_config(cfg, cfg.MODEL.DW)
