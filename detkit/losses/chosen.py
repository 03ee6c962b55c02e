"""Single logits out of all of them, where a loss is computed of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import in_memory_order
from .gradients import refuse_second_derivative

__all__ = ["chosen_logits"]


def chosen_logits(logits: Tensor, prior_index: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of some priors for one class each, and all logits again.

    Of a loss that is computed of both, the gradient of the single ones is added into that of all the others in place: no second table of
    zeros is made for them, and no sum of two tables.

    Args:
        logits: (B, P, K).
        prior_index: (M,) int64 in [0, B * P): priors of the batch, image by image.
        classes: (M,) int64 in [0, K).

    Returns:
        (M,) the single logits; and (B, P, K), equal to ``logits``, for whatever else is computed of them. Its gradient can be taken once.
    """
    tables, dimension = in_memory_order(logits)
    num_priors, num_classes = logits.shape[1:]
    if dimension == 2:
        index = prior_index * num_classes + classes
    else:
        image = torch.div(prior_index, num_priors, rounding_mode="floor")
        index = prior_index + (image * (num_classes - 1) + classes) * num_priors
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and logits.requires_grad):
        return tables.flatten().gather(0, index), logits
    return _Chosen.apply(logits, index, dimension)


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.dimension, ctx.like = dimension, (logits.shape, logits.dtype, logits.device)
        in_order = logits.transpose(1, 2) if dimension == 1 else logits
        return in_order.flatten().gather(0, index), logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, grad_chosen: Tensor | None, grad_all: Tensor | None) -> tuple[Tensor | None, None, None]:
        refuse_second_derivative("single logits")
        if grad_chosen is None:
            return grad_all, None, None
        shape, dtype, device = ctx.like
        if grad_all is None:
            grad_all = torch.zeros(shape, dtype=dtype, device=device)
        in_order = (grad_all.transpose(1, 2) if ctx.dimension == 1 else grad_all).contiguous()
        in_order.view(-1).index_add_(0, ctx.saved_tensors[0], grad_chosen.to(in_order.dtype))
        return in_order.transpose(1, 2) if ctx.dimension == 1 else in_order, None, None
