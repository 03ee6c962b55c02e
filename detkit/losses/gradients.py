"""Gradients that are written out."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.host import values_are_at_hand

__all__ = ["is_one", "refuse_second_derivative"]


def is_one(grad: Tensor) -> bool:
    """Whether the gradient of a loss is known to be 1 everywhere, as it is where losses are summed and differentiated."""
    return values_are_at_hand(grad) and grad.numel() > 0 and not any(grad.stride()) and float(grad.flatten()[0]) == 1


def refuse_second_derivative(what: str) -> None:
    """Raises in a backward pass that is recorded to be differentiated again (``create_graph=True``), whose result would lack a part.

    Raises:
        RuntimeError: names the loss.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"The gradient of the {what} is written out and cannot be differentiated again: leave out create_graph=True.")
