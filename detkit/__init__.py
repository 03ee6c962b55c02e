"""What two or more of the detectors share: geometry, assigners, losses, heads, data, training engine, report."""

from __future__ import annotations

from typing import Any

from .config_files import get_config_file

__all__ = ["OnnxPredictor", "get_config_file"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "OnnxPredictor":  # at its first use, since few need it
        from .onnx_predictor import OnnxPredictor

        return OnnxPredictor
    raise AttributeError(f"module 'detkit' has no attribute {name!r}")
