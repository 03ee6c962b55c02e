"""Focal loss from class labels, without one-hot targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal_loss_from_labels"]


def focal_loss_from_labels(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, ignore: Tensor | None = None
) -> Tensor:
    """Summed sigmoid focal loss (Lin et al., ICCV 2017, equation 5) of integer labels.

    Equal to ``fvcore.nn.sigmoid_focal_loss`` on one-hot targets, which are never made: the loss of "not this class" is taken everywhere
    and replaced at the one label of each positive row.

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

    Returns:
        scalar.
    """
    num_classes = logits.shape[-1]
    weight_pos, weight_neg = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    negative = logits.sigmoid() ** gamma * F.softplus(logits)
    chosen = logits.gather(-1, labels.clamp(max=num_classes - 1)[..., None]).squeeze(-1)
    is_positive = labels < num_classes
    positive_loss = weight_pos * (-chosen).sigmoid() ** gamma * F.softplus(-chosen)
    negative_of_chosen = negative.gather(-1, labels.clamp(max=num_classes - 1)[..., None]).squeeze(-1)
    per_row = weight_neg * negative.sum(-1)
    correction = torch.where(is_positive, positive_loss - weight_neg * negative_of_chosen, torch.zeros_like(per_row))
    total = per_row + correction
    return (total if ignore is None else total.masked_fill(ignore, 0.0)).sum()
