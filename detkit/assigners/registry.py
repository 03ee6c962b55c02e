"""The registry of label assigners. A new one is one class, ``@ASSIGNER_REGISTRY.register()``, and one config key."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from detkit.config import ConfigError
from detkit.registry import registered

from .base import Assigner

__all__ = ["ASSIGNER_REGISTRY", "build_assigner"]

ASSIGNER_REGISTRY = Registry("ASSIGNER")
ASSIGNER_REGISTRY.__doc__ = """
Label assigners by class name. ``build_assigner(name, cfg)`` makes one from ``cfg``; its ``from_config`` reads what it needs, by convention
below ``cfg.MODEL.ASSIGNERS``.
"""


def build_assigner(
    name: str,
    cfg: CfgNode,
    *,
    key: str,
    takes_weights: bool = True,
    has_anchors: bool = True,
    has_priors: bool = True,
    **given: Any,
) -> Assigner:
    """The assigner registered as ``name``.

    Args:
        key: the config key that holds the name, for the message.
        takes_weights: whether the model can learn from weights as well as from hard labels.
        has_anchors: whether the model's priors are anchors with an extent.
        has_priors: whether the model predicts on a grid.
        given: what follows from the detector, such as ``num_classes`` and ``sizes_of_interest``; an assigner takes what its constructor
            knows, in place of its own keys.

    Raises:
        ConfigError: no such assigner, or one that needs what the model lacks; names those that fit.
    """
    kind = registered(ASSIGNER_REGISTRY, name, "label assigner", key=key)
    lacks = {
        "gives_weights": (takes_weights, "gives weights, and this model learns from hard labels"),
        "needs_anchors": (has_anchors, "needs anchors with an extent, and this model predicts from points"),
        "needs_priors": (has_priors, "labels the cells of a grid, and this model has none"),
    }
    for flag, (present, reason) in lacks.items():
        if not present and getattr(kind, flag):
            missing = [flag for flag, (present, _) in lacks.items() if not present]
            fitting = sorted(other for other, kind in ASSIGNER_REGISTRY if not any(getattr(kind, flag) for flag in missing))
            raise ConfigError(f"{key} is '{name}', which {reason}. It has to be one of {', '.join(map(repr, fitting))}.")
    arguments = kind.from_config(cfg, **{name: value for name, value in given.items() if value is not None})
    try:
        return kind(**arguments)
    except ValueError as error:
        name = str(error).split()[0]  # messages begin with the argument, which is named as its key
        raise ConfigError(f"MODEL.ASSIGNERS.{kind.config_section}.{name.upper()}: {error}") from None
