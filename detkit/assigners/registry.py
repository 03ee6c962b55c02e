"""The registry of label assigners. A new one is one class, ``@ASSIGNER_REGISTRY.register()``, and one config key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from detkit.config import ConfigError
from detkit.registry import registered

from .base import Assigner

__all__ = ["ASSIGNER_REGISTRY", "build_assigner"]

ASSIGNER_REGISTRY = Registry("ASSIGNER")
ASSIGNER_REGISTRY.__doc__ = """
Label assigners by class name. ``build_assigner(name, cfg)`` calls the class with ``cfg`` alone; its ``from_config`` reads what it needs,
by convention below ``cfg.MODEL.ASSIGNERS``.
"""


Lack = Literal["weights", "anchors", "priors"]

_REASONS: dict[Lack, str] = {
    "weights": "gives weights, and this model learns from hard labels",
    "anchors": "needs anchors with an extent, and this model predicts from points",
    "priors": "labels the cells of a grid, and this model has none",
}


def build_assigner(name: str, cfg: CfgNode, *, key: str = "ASSIGNER", without: Sequence[Lack] = ()) -> Assigner:
    """The assigner registered as ``name``.

    Args:
        key: where the name stands in the config, for the message.
        without: what the model cannot use ("weights") or cannot give.

    Raises:
        KeyError: no such assigner; names the nearest that exists.
        ConfigError: the assigner needs what the model lacks; names those that do not.
    """
    kind = registered(ASSIGNER_REGISTRY, name, "label assigner")
    for lack in without:
        if _asks_for(kind, lack):
            fitting = sorted(other for other, candidate in ASSIGNER_REGISTRY if not any(_asks_for(candidate, x) for x in without))
            raise ConfigError(f"{key} is '{name}', which {_REASONS[lack]}. Take one of {', '.join(fitting)}.")
    return kind(cfg)


def _asks_for(kind: object, lack: Lack) -> bool:
    return getattr(kind, "gives_weights" if lack == "weights" else f"needs_{lack}", False)
