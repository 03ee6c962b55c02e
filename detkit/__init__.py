"""What two or more of the detectors share: geometry, assigners, losses, heads, data, training engine, report."""

from __future__ import annotations

import importlib
from typing import Any

from .config_files import get_config_file

__all__ = ["Predictor", "get_config_file"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``detkit.Predictor``, imported when it is asked for: ``import detkit`` alone loads neither torch nor Detectron2."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("detkit.engine")  # first: it silences what dependencies say when they are imported
    return importlib.import_module("detkit.predictor").Predictor
