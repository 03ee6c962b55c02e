"""All config keys of the project and the safe reading of config files.

``get_cfg()`` is Detectron2's, with the keys of detkit and of every method package, and with safe merging of files.
"""

from __future__ import annotations

import importlib
import pkgutil

from detectron2.config import get_cfg as get_detectron2_cfg

from .plugins import METHOD_PACKAGES, load_method_packages
from .reader import ConfigError, SafeCfgNode

__all__ = ["METHOD_PACKAGES", "ConfigError", "SafeCfgNode", "get_cfg", "load_method_packages"]


def get_cfg() -> SafeCfgNode:
    """The default config with every key of Detectron2, detkit and the method packages, which are imported and so registered."""
    cfg = get_detectron2_cfg()
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name, add in vars(module).items():
            if name.startswith("add_") and name.endswith("_config"):
                add(cfg)
    for package in load_method_packages():
        if hasattr(package, "add_config"):
            package.add_config(cfg)
    return SafeCfgNode(cfg)
