"""The packages of the methods, loaded by name: detkit imports none of them statically."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

__all__ = ["METHOD_PACKAGES", "load_method_packages"]

#: One package per paper. Importing one registers its meta-architectures; one with config keys has ``add_config(cfg)``.
METHOD_PACKAGES = ("fcos_atss", "sparsercnn", "lsnet", "dw")


def load_method_packages() -> list[ModuleType]:
    """Imports the method packages that are installed, in the order of :data:`METHOD_PACKAGES`.

    A package that is not installed is left out; one that fails while it is imported raises its own error.
    """
    return [importlib.import_module(name) for name in METHOD_PACKAGES if importlib.util.find_spec(name) is not None]
