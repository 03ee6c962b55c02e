"""What is shared of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from torch import Tensor

__all__ = ["SharedModel"]


@dataclass(frozen=True)
class SharedModel:
    """What is shared.

    Args:
        cfg: the resolved config.
        weights: the state dict.
        class_names: one per class, in order.
        results: dataset -> task -> metric -> value in percent, as measured with these weights; empty: not measured.
        origin: where the numbers come from: ``command``, ``hardware``, ``versions``, ``date``, ``iterations``, as far as known.
    """

    cfg: CfgNode
    weights: Mapping[str, Tensor]
    class_names: Sequence[str]
    results: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
