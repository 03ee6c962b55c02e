"""The config with all keys."""

from __future__ import annotations

from functools import cache

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from .assigners import add_assigner_config
from .backbones import add_backbone_config
from .data import add_data_config
from .engine import add_engine_config
from .plugins import load_method_packages
from .reader import SafeCfgNode, usable_device
from .tta import add_tta_config

__all__ = ["default_value", "get_cfg"]


def get_cfg() -> SafeCfgNode:
    """Detectron2's default config with the keys of detkit and of the method packages, which are imported and so registered.

    ``MODEL.DEVICE`` is "cuda" where there is a GPU, else "cpu".

    ``merge_from_file`` and ``merge_from_list`` of the result read safely, see :mod:`detkit.config.reader`.
    """
    cfg = get_detectron2_cfg()
    cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
    for add_config in (add_assigner_config, add_backbone_config, add_data_config, add_engine_config, add_tta_config):
        add_config(cfg)
    for package in load_method_packages():
        if hasattr(package, "add_config"):
            package.add_config(cfg)
    safe = SafeCfgNode(cfg)
    safe.__dict__[CfgNode.RENAMED_KEYS] |= cfg.__dict__[CfgNode.RENAMED_KEYS]  # which copies leave behind
    return safe


def default_value(key: str, otherwise: object = None) -> object:
    """The default of a dotted key; ``otherwise`` for keys that the project does not define."""
    value: object = _defaults()
    for name in key.split("."):
        if not isinstance(value, CfgNode) or name not in value:
            return otherwise
        value = value[name]
    return value


@cache
def _defaults() -> SafeCfgNode:
    return get_cfg()
