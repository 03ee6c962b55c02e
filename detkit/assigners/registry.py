"""The registry of label assigners. A new one is one class, ``@ASSIGNER_REGISTRY.register()``, and one config key."""

from __future__ import annotations

import difflib

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from .base import Assigner

__all__ = ["ASSIGNER_REGISTRY", "build_assigner"]

ASSIGNER_REGISTRY = Registry("ASSIGNER")
ASSIGNER_REGISTRY.__doc__ = """
Label assigners by class name. ``build_assigner(name, cfg)`` calls the class with ``cfg`` alone; its ``from_config`` reads what it needs,
by convention below ``cfg.MODEL.ASSIGNERS``.
"""


def build_assigner(name: str, cfg: CfgNode) -> Assigner:
    """The assigner registered as ``name``.

    Raises:
        KeyError: no such assigner; names the nearest that exists.
    """
    known = [key for key, _ in ASSIGNER_REGISTRY]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise KeyError(f"No label assigner is registered as '{name}'. Registered: {', '.join(sorted(known))}.{hint}")
    return ASSIGNER_REGISTRY.get(name)(cfg)
