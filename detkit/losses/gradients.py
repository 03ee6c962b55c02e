"""Gradients that are written out."""

from __future__ import annotations

import torch

__all__ = ["refuse_second_derivative"]


def refuse_second_derivative(what: str) -> None:
    """Raises in a backward pass that is recorded to be differentiated again (``create_graph=True``), whose result would lack a part.

    Raises:
        RuntimeError: names the loss.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"The gradient of the {what} is written out and cannot be differentiated again: leave out create_graph=True.")
