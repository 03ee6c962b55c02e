"""Convolutions of one image by one thread of a CPU: oneDNN's, which torch takes by itself from two threads on."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

__all__ = ["use_onednn"]


def use_onednn(network: nn.Module) -> int:
    """Makes the convolutions of a network on a CPU take oneDNN's kernels for one thread too, in place; for inference in float32 alone.

    For most unstrided convolutions of one image torch then takes a matrix product of its own, whose 1x1 convolutions take twice as long.

    Returns:
        how many convolutions there are.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    found = [
        module
        for module in network.modules()
        if type(module) in (nn.Conv2d, Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    ]
    for module in found:
        module.forward = MethodType(_forward, module)
    return len(found)


def _forward(conv: Any, x: Tensor) -> Tensor:
    """Of a convolution, and the norm and the activation that it may hold."""
    plain = torch.compiler.is_compiling() or torch.get_num_threads() > 1 or torch.is_grad_enabled()
    if plain or not x.numel() or not x.dtype == conv.weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
        return type(conv).forward(conv, x)
    x = torch.mkldnn_convolution(x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    for after in (getattr(conv, "norm", None), getattr(conv, "activation", None)):
        if after is not None:
            x = after(x)
    return x
