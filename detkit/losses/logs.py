"""Logarithms of what is nearly 1, exact in float32, without the operators that some processors are slow in.

``log1p``, ``expm1`` and ``softplus`` take ten to twenty times as long as ``exp`` and ``log`` on some CPUs, depending on what the process
has computed before. There ``ln(1 + x)`` is ``ln(r) + (x - (r - 1)) / r`` with ``r = 1 + x`` as it is rounded: the second term is what
rounding took away. Other devices have the operators.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import refuse_second_derivative

__all__ = ["log_of_one_plus", "softplus", "softplus_and_sigmoids"]

_LARGE = 80.0


def log_of_one_plus(x: Tensor) -> Tensor:
    """``ln(1 + x)`` of x > -1, to the last digits of float32, with gradient."""
    if x.device.type != "cpu":
        return x.log1p()
    rounded = 1 + x
    with torch.no_grad():
        lost = (x - (rounded - 1)) / rounded
    return rounded.log() + lost


def softplus(x: Tensor) -> Tensor:
    """``ln(1 + exp(x))`` with gradient, which can be differentiated once."""
    if torch.compiler.is_compiling():
        return F.softplus(x)  # compilers stumble over the second call of a function whose gradient is written out
    return _Softplus.apply(x)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result, probability, _ = softplus_and_sigmoids(x)
        ctx.save_for_backward(probability)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivative("softplus of the loss")
        return grad * ctx.saved_tensors[0]


@torch.no_grad()
def softplus_and_sigmoids(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``ln(1 + exp(x))``, ``p = 1 / (1 + exp(-x))`` and ``1 - p`` of the same numbers, without gradient.

    On a CPU the first is ``-ln(q) - ((1 - q) - p)`` with q = 1 - p as it is rounded, exact to the last digits of float32 for all x.
    """
    probability, rest = x.sigmoid(), x.neg().sigmoid_()
    if x.device.type != "cpu":
        return F.softplus(x), probability, rest
    lost = (1 - rest).sub_(probability)
    softplus = rest.log().add_(lost).neg_().clamp_(max=_LARGE)  # beyond, the rest is no number of float32
    return torch.maximum(softplus, x), probability, rest
