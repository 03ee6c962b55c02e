"""The loss of everything that is no object: most of what a dense detector predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import blocks_of, in_memory_order
from .gradients import is_one, refuse_second_derivative
from .logs import log_of_one_plus

__all__ = ["background_loss", "negative_log_rest"]

#: largest score whose ``ln(1 - s)`` is taken as it is; above it ``1 - s`` underflows in float32
MAX_SCORE = 1 - 2.0**-23


def negative_log_rest(score: Tensor) -> Tensor:
    """``-ln(1 - score)`` of scores in [0, 1], finite for all of them."""
    return -log_of_one_plus(-score.clamp(max=MAX_SCORE))


def background_loss(
    logits: Tensor,
    quality: Tensor | None = None,
    *,
    gamma: float = 2.0,
    ignore: Tensor | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Sum of ``s ** gamma * -ln(1 - s)`` over all scores ``s = sigmoid(logits) * sigmoid(quality)`` (focal loss of the label 0).

    The gradient is written out and made in the forward pass, so that the scores are computed once and nothing else is kept. It flows
    through both factors, and through ``s ** gamma``; it can be differentiated once.

    Args:
        logits: (B, P, K) of the classes, float32.
        quality: (B, P) logits, or None for 1.
        gamma: exponent >= 1, or 0.
        ignore: (B, P) bool, priors that take no part.
        scale: factor of the loss, without gradient, as in :func:`detkit.losses.focal_loss_from_labels`.

    Returns:
        scalar.
    """
    return _Background.apply(logits, quality, gamma, ignore, scale)


class _Background(torch.autograd.Function):
    """With h = s ** gamma * (gamma * -ln(1 - s) + s / (1 - s)), which is s times the derivative by s, the derivative by the class logit
    is ``h * (1 - sigmoid(logit))`` and the one by the quality logit the sum of ``h * (1 - sigmoid(quality))`` over the classes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, quality: Tensor | None, gamma: float, ignore: Tensor | None, scale: Tensor | float) -> Tensor:
        tables, classes = in_memory_order(logits)
        across = (len(tables), 1, -1) if classes == 1 else (1, -1, 1)  # of a value per prior, beside the tables
        location = None if quality is None else quality.sigmoid().reshape(across)
        taking_part = None if ignore is None else ~ignore.reshape(across)
        grad, grad_location = torch.empty_like(tables), None if location is None else torch.zeros_like(location)
        loss = tables.new_zeros(())
        for block in blocks_of(tables):
            beside = (block[0], slice(None)) if classes == 1 else block
            probability = tables[block].sigmoid()
            score = (probability * (1 if location is None else location[beside])).clamp_(max=MAX_SCORE)
            rest = 1 - score
            log_rest = (1 - rest).sub_(score).add_(rest.log())  # with what rounding took away, as in softplus_and_sigmoids
            power = (score.square() if gamma == 2 else score**gamma).mul_(scale)
            if taking_part is not None:
                power *= taking_part[beside]
            loss -= power.flatten().dot(log_rest.flatten())
            slope = score.div_(rest).sub_(log_rest, alpha=gamma).mul_(power)
            if grad_location is not None:
                grad_location[beside] += slope.sum(classes, keepdim=True)
            torch.addcmul(slope, slope, probability, value=-1, out=grad[block])
        grad_quality = None
        if quality is not None and location is not None and grad_location is not None:
            grad_quality = grad_location.mul_(1 - location).view_as(quality)
        ctx.save_for_backward(grad.transpose(1, 2) if classes == 1 else grad.view_as(logits), grad_quality)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("background loss")
        grad_logits, grad_quality = ctx.saved_tensors
        if not is_one(grad):
            grad_logits, grad_quality = grad_logits * grad, None if grad_quality is None else grad_quality * grad
        return grad_logits, grad_quality, None, None, None
