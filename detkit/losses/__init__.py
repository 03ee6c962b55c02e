"""Losses as pure functions, one idea per file."""

from .background import background_loss, negative_log_rest
from .chosen import chosen_logits
from .focal import focal_loss_from_labels
from .iou import giou_loss, iou_loss, linear_iou_loss, paired_iou
from .logs import softplus

__all__ = [
    "background_loss",
    "chosen_logits",
    "focal_loss_from_labels",
    "giou_loss",
    "iou_loss",
    "linear_iou_loss",
    "negative_log_rest",
    "paired_iou",
    "softplus",
]
