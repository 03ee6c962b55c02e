"""All config keys of the project and the safe reading of config files."""

from __future__ import annotations

from detectron2.config import get_cfg as get_detectron2_cfg

from .assigners import add_assigner_config
from .backbones import add_backbone_config
from .data import add_data_config
from .engine import add_engine_config
from .plugins import METHOD_PACKAGES, load_method_packages
from .ranges import check_ranges
from .reader import ConfigError, SafeCfgNode, flatten
from .section import Limit, Section
from .tta import add_tta_config

__all__ = [
    "METHOD_PACKAGES",
    "ConfigError",
    "Limit",
    "SafeCfgNode",
    "Section",
    "check_ranges",
    "flatten",
    "get_cfg",
    "load_method_packages",
]


def get_cfg() -> SafeCfgNode:
    """Detectron2's default config with the keys of detkit and of the method packages, which are imported and so registered.

    ``merge_from_file`` and ``merge_from_list`` of the result read safely, see :mod:`detkit.config.reader`.
    """
    cfg = get_detectron2_cfg()
    for add_config in (add_assigner_config, add_backbone_config, add_data_config, add_engine_config, add_tta_config):
        add_config(cfg)
    for package in load_method_packages():
        if hasattr(package, "add_config"):
            package.add_config(cfg)
    return SafeCfgNode(cfg)
