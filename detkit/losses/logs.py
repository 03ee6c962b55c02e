"""Logarithms of what is nearly 1, exact in float32, without the operators that some processors are slow in.

``log1p``, ``expm1`` and ``softplus`` take ten to twenty times as long as ``exp`` and ``log`` on some CPUs, depending on what the process
has computed before. There ``ln(1 + x)`` is ``ln(r) + (x - (r - 1)) / r`` with ``r = 1 + x`` as it is rounded: the second term is what
rounding took away. Other devices have the operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["log_of_one_plus", "softplus_and_sigmoid"]


def log_of_one_plus(x: Tensor) -> Tensor:
    """``ln(1 + x)`` of x > -1, to the last digits of float32, with gradient."""
    if x.device.type != "cpu":
        return x.log1p()
    rounded = 1 + x
    with torch.no_grad():
        lost = (x - (rounded - 1)) / rounded
    return rounded.log() + lost


@torch.no_grad()
def softplus_and_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """``ln(1 + exp(x))`` and ``1 / (1 + exp(-x))`` of the same numbers, without gradient."""
    if x.device.type != "cpu":
        return F.softplus(x), x.sigmoid()
    small = x.abs().neg_().exp_()  # exp(-|x|)
    rounded = small + 1
    lost = (rounded - 1).sub_(small).div_(rounded)
    softplus = rounded.log().sub_(lost).add_(x.clamp(min=0))
    return softplus, torch.where(x >= 0, 1.0, small).div_(rounded)
