"""What two or more of the detectors share: geometry, assigners, losses, heads, data, training engine, report."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .config_files import get_config_file

__all__ = ["OnnxPredictor", "Predictor", "get_config_file"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``detkit.Predictor``, which needs everything else, and ``detkit.OnnxPredictor``, which needs no torch, are imported at first use."""
    if name == "OnnxPredictor":
        return import_module("detkit.onnx_predictor").OnnxPredictor
    if name == "Predictor":
        import_module("detkit.engine")  # first: it silences what dependencies say when they are imported
        return import_module("detkit.predictor").Predictor
    raise AttributeError(f"module 'detkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the names that are imported at first use, for completion and for the reference."""
    return sorted({*globals(), *__all__})
