"""The weights and the image of the outputs in ``mmdetection_outputs.json``."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adjusted", "image"]

#: last layers of mmdetection's heads: classes, boxes
_CLASSES, _BOXES = ("retina_cls", "conv_cls", "atss_cls"), ("retina_reg", "conv_reg", "atss_reg")


def adjusted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose last layers are scaled, so that some objects are found and boxes have a size."""
    for name, value in weights.items():
        layer, _, part = name.removeprefix("bbox_head.").partition(".")
        if layer in _CLASSES:
            value *= 0.03 if part == "weight" else 1.0
            value -= 2.5 if part == "bias" else 0.0
        elif layer in _BOXES:
            value *= 0.1 if part == "weight" else 1.0
            value += 1.0 if layer == "conv_reg" and part == "bias" else 0.0  # distances are not negative
    return weights


def image() -> Tensor:
    """(3, 128, 160), BGR, from 0 to 255."""
    return (torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(0)) * 255).round()
