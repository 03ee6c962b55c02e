"""The loss of everything that is no object: most of what a dense detector predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import blocks_of_rows
from .gradients import refuse_second_derivative
from .logs import log_of_one_plus

__all__ = ["background_loss", "negative_log_rest"]

#: largest score whose ``ln(1 - s)`` is taken as it is; above it ``1 - s`` underflows in float32
MAX_SCORE = 1 - 2.0**-23


def negative_log_rest(score: Tensor) -> Tensor:
    """``-ln(1 - score)`` of scores in [0, 1], finite for all of them."""
    return -log_of_one_plus(-score.clamp(max=MAX_SCORE))


def background_loss(logits: Tensor, quality: Tensor | None = None, *, gamma: float = 2.0, ignore: Tensor | None = None) -> Tensor:
    """Sum of ``s ** gamma * -ln(1 - s)`` over all scores ``s = sigmoid(logits) * sigmoid(quality)`` (focal loss of the label 0).

    The gradient is written out and made in the forward pass, so that the scores are computed once and nothing else is kept. It flows
    through both factors, and through ``s ** gamma``; it can be differentiated once.

    Args:
        logits: (B, P, K) of the classes, float32.
        quality: (B, P) logits, or None for 1.
        gamma: exponent >= 1, or 0.
        ignore: (B, P) bool, priors that take no part.

    Returns:
        scalar.
    """
    return _Background.apply(logits, quality, gamma, ignore)


class _Background(torch.autograd.Function):
    """With h = s ** gamma * (gamma * -ln(1 - s) + s / (1 - s)), which is s times the derivative by s, the derivative by the class logit
    is ``h * (1 - sigmoid(logit))`` and the one by the quality logit the sum of ``h * (1 - sigmoid(quality))`` over the classes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, quality: Tensor | None, gamma: float, ignore: Tensor | None) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        location = None if quality is None else quality.sigmoid().view(-1, 1)
        taking_part = None if ignore is None else ~ignore.view(-1, 1)
        grad, grad_location = torch.empty_like(rows), None if location is None else torch.empty_like(location)
        loss = rows.new_zeros(())
        for block in blocks_of_rows(rows):
            probability = rows[block].sigmoid()
            score = (probability * (1 if location is None else location[block])).clamp_(max=MAX_SCORE)
            nll = log_of_one_plus(-score).neg_()
            power = score.square() if gamma == 2 else score**gamma
            if taking_part is not None:
                power *= taking_part[block]
            loss += power.flatten().dot(nll.flatten())
            slope = score.div_(1 - score).add_(nll, alpha=gamma).mul_(power)
            if grad_location is not None:
                grad_location[block] = slope.sum(1, keepdim=True)
            torch.mul(slope, probability.neg_().add_(1), out=grad[block])
        grad_quality = None
        if quality is not None and location is not None and grad_location is not None:
            grad_quality = grad_location.mul_(1 - location).view_as(quality)
        ctx.save_for_backward(grad.view_as(logits), grad_quality)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        refuse_second_derivative("background loss")
        grad_logits, grad_quality = ctx.saved_tensors
        return grad_logits * grad, None if grad_quality is None else grad_quality * grad, None, None
