"""Focal loss from class labels, without one-hot targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import blocks_of, in_memory_order
from .gradients import is_one, refuse_second_derivative
from .logs import softplus_and_sigmoids

__all__ = ["focal_loss_from_labels"]


def focal_loss_from_labels(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore: Tensor | None = None,
    per_row: bool = False,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Summed sigmoid focal loss (Lin et al., ICCV 2017, equation 5) of integer labels, in float32 also under autocast.

    Equal to ``fvcore.nn.sigmoid_focal_loss`` on one-hot targets, which are never made: the loss of "not this class" is taken everywhere
    and replaced at the one label of each positive row. The gradient is written out and made in the forward pass, so that nothing else is
    kept; it can be differentiated once.

    Example::

        >>> logits, labels = torch.zeros(3, 80), torch.tensor([0, 17, 80])  # two objects and a background
        >>> loss = focal_loss_from_labels(logits, labels, alpha=0.25, gamma=2.0)
        >>> round(loss.item(), 3)
        31.018

    Args:
        logits: (..., K).
        labels: (...) int64; a class in [0, K), or K for background.
        alpha: weight of the positives, ``1 - alpha`` that of the negatives; negative for no weighting.
        gamma: focusing exponent >= 0.
        ignore: (...) bool, rows that take no part.
        per_row: sum over the classes alone.
        scale: factor of the loss, a number without gradient such as the weight by the normalizer. Given here it costs nothing, while a
            factor of the result has to be multiplied into the whole gradient.

    Returns:
        scalar, or (...) of the rows.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    weights = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    loss = _FocalLoss.apply(logits, labels, *weights, gamma, scale)
    if ignore is not None:
        loss = loss.masked_fill(ignore, 0.0)
    return loss if per_row else loss.sum()


class _FocalLoss(torch.autograd.Function):
    """Of every row. With p = sigmoid(x), the loss of a negative is ``f(x) = p ** gamma * -ln(1 - p)`` and that of a positive ``f(-x)``."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weight_pos: float, weight_neg: float, gamma: float, scale: Tensor | float
    ) -> Tensor:
        tables, classes = in_memory_order(logits)
        with_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(tables if with_grad else tables[:0])
        negatives = tables.new_zeros(len(tables), tables.shape[3 - classes])
        factor = weight_neg * scale
        for block in blocks_of(tables):
            loss, slope = _negatives(tables[block], gamma, with_grad)
            if classes == 1:
                negatives[block[0]] += loss.sum(1)
            else:
                negatives[block] = loss.sum(2)
            if slope is not None:
                torch.mul(slope, factor, out=grad[block])

        # at the label of a positive row, the loss of a positive instead of that of a negative
        num_classes = logits.shape[-1]
        positive, place = (labels < num_classes)[..., None], labels[..., None].clamp(max=num_classes - 1)
        chosen = logits.gather(-1, place)
        loss, slope = _negatives(torch.stack([chosen, -chosen]), gamma, with_grad)
        instead = torch.where(positive, weight_pos * loss[1] - weight_neg * loss[0], 0.0)
        if slope is not None:
            as_logits = grad.transpose(1, 2) if classes == 1 else grad.view_as(logits)
            as_logits.scatter_(-1, place, torch.where(positive, -weight_pos * slope[1], weight_neg * slope[0]) * scale)
            ctx.save_for_backward(as_logits)
        return instead.squeeze(-1).add_(negatives.view_as(labels), alpha=weight_neg).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("focal loss")
        (grad_logits,) = ctx.saved_tensors
        if not is_one(grad):
            grad_logits = grad_logits * grad[..., None]
        return grad_logits, None, None, None, None, None


def _negatives(x: Tensor, gamma: float, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """``f(x)`` of every logit, and its derivative ``p ** gamma * (gamma * (1 - p) * -ln(1 - p) + p)``."""
    nll, probability, rest = softplus_and_sigmoids(x)
    slope = torch.addcmul(probability, rest, nll, value=gamma) if with_slope else None
    power = probability.mul_(probability) if gamma == 2 else probability.pow_(gamma)
    return nll.mul_(power), None if slope is None else slope.mul_(power)
