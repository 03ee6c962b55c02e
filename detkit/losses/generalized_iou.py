"""The GIoU loss with its gradient written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .gradients import refuse_second_derivative

__all__ = ["giou_loss_of_pairs"]

#: pairs that are computed at a time on a CPU, so that what lies between fits into a cache
PAIRS_AT_ONCE = 1 << 14


def giou_loss_of_pairs(pred: Tensor, target: Tensor, *, offset: float, eps: float) -> Tensor:
    """:func:`detkit.losses.giou_loss` of pairs (M, 4), with a gradient for ``pred`` alone, which can be differentiated once.

    Where corners of both boxes coincide, half of the gradient flows, as from ``torch.minimum``.
    """
    return _GIoU.apply(pred, target, offset, offset or eps, eps)


class _GIoU(torch.autograd.Function):
    """Loss and gradient in one pass. With intersection I, union U, hull H and their small additions, the derivatives of the loss
    ``1 - (I + offset) / (U + eps) + (H - U) / (H + eps)`` are taken by I, U and H first, then by the sides of the boxes."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, offset: float, union_eps: float, eps: float) -> Tensor:
        loss, grad = pred.new_empty(len(pred)), pred.new_empty(4, len(pred))
        size = PAIRS_AT_ONCE if pred.device.type == "cpu" else max(len(pred), 1)
        parts = [slice(None)] if torch.compiler.is_compiling() else [slice(at, at + size) for at in range(0, len(pred), size)]
        for part in parts:  # compilers make parts of their own
            _loss_and_gradient(pred[part].t(), target[part].t(), (offset, union_eps, eps), loss[part], grad[:, part])
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        refuse_second_derivative("GIoU loss")
        return (ctx.saved_tensors[0] * grad).t(), None, None, None, None


def _loss_and_gradient(pred: Tensor, target: Tensor, additions: tuple[float, float, float], loss: Tensor, grad: Tensor) -> None:
    """Writes the loss (M,) and its gradient by ``pred`` (4, M); both boxes are (4, M)."""
    offset, union_eps, eps = additions
    near, far, near_target, far_target = pred[:2], pred[2:], target[:2], target[2:]  # (2, M): x, y
    overlap = torch.minimum(far, far_target) - torch.maximum(near, near_target)
    side, side_target, hull = far - near, far_target - near_target, torch.maximum(far, far_target) - torch.minimum(near, near_target)
    sides = (overlap, side, hull)
    positive = [x > 0 for x in sides]  # where they are, gradients flow
    overlap, side, hull = (x.clamp_(min=0) for x in sides)
    intersection, hull_area = overlap[0] * overlap[1], hull[0] * hull[1]
    side_target.clamp_(min=0)
    union = side[0] * side[1] + side_target[0] * side_target[1] - intersection
    shared, whole, empty = intersection + offset, union + union_eps, hull_area + eps
    iou = shared / whole
    torch.add(1 - iou, (hull_area - union) / empty, out=loss)

    by_union = iou / whole - 1 / empty
    by_intersection = -1 / whole - by_union
    by_hull = (union + eps) / empty.square()
    by_overlap, by_side, by_hull = (
        by * x.flip(0) * flows for by, x, flows in zip((by_intersection, by_union, by_hull), (overlap, side, hull), positive, strict=True)
    )
    # a corner moves the overlap where it lies within the other box, else the hull; as it moves, so do the sides of its own box
    by_overlap -= by_hull
    by_hull += by_side
    inner = torch.sign(near - near_target).add_(1).mul_(0.5)
    torch.addcmul(by_hull, inner, by_overlap, out=grad[:2]).neg_()
    inner = torch.sign(far_target - far).add_(1).mul_(0.5)
    torch.addcmul(by_hull, inner, by_overlap, out=grad[2:])
