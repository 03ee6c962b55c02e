"""Losses, box coders and overlaps alone, as mmdetection computes them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor

from detkit.geometry import DeltaBoxCoder, centerness_of, elementwise_iou, ltrb_to_boxes
from detkit.losses import focal_loss_from_labels, giou_loss, iou_loss

from .cases import GoldenCase, find_cases
from .compare import Recorder

RecorderOf = Callable[[GoldenCase], Recorder]

#: loss of each row of the inputs, by the name under which the cases store it
ROW_LOSSES: dict[str, tuple[str, Callable[[GoldenCase, Tensor], Tensor]]] = {
    "focal": ("logits", lambda case, x: torch.stack([focal_loss_from_labels(*row) for row in zip(x, case.tensor("labels"), strict=True)])),
    "bce": ("logits", lambda case, x: F.binary_cross_entropy_with_logits(x[:, 0], case.tensor("bce_target"), reduction="none")),
    "iou_log": ("pred_boxes", lambda case, x: iou_loss(x, case.tensor("target_boxes"))),
    "giou": ("pred_boxes", lambda case, x: giou_loss(x, case.tensor("target_boxes"))),
}


@pytest.mark.parametrize("case", find_cases("mmdet_losses"), ids=lambda case: case.id)
@pytest.mark.parametrize("name", ROW_LOSSES)
def test_losses(case: GoldenCase, name: str, recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    input_name, loss = ROW_LOSSES[name]
    given = case.tensor(input_name).requires_grad_()
    rows = loss(case, given)
    expected = case.tensor(f"{name}_none")
    recorder.close("losses", f"{name}_none", rows, expected.flatten(1).sum(1) if expected.dim() > 1 else expected)
    weighted = (rows * case.tensor("weight")).sum() / 7.5
    recorder.close("losses", f"{name}_weighted", weighted, case.tensor(f"{name}_weighted"))
    (gradient,) = torch.autograd.grad(weighted, given)
    stored = case.tensor(f"{name}_grad")
    recorder.close("gradients", f"{name}_grad", gradient if stored.dim() > 1 else gradient[:, 0], stored)


@pytest.mark.parametrize("case", find_cases("mmdet_coders"), ids=lambda case: case.id)
@pytest.mark.parametrize(("name", "weights"), [("atss", (10.0, 10.0, 5.0, 5.0)), ("sparse", (2.0, 2.0, 1.0, 1.0))])
def test_delta_coder(case: GoldenCase, name: str, weights: tuple[float, ...], recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    coder = DeltaBoxCoder(weights, clamp_below=True)
    anchors = case.tensor("anchors")
    deltas = coder.encode(case.tensor("gts")[3:], _priors(anchors[3:]))
    recorder.close("targets", f"{name}_encode", deltas, case.tensor(f"{name}_encode"))
    boxes = coder.decode(case.tensor("deltas"), _priors(anchors))
    recorder.close("boxes", f"{name}_decode", boxes, case.tensor(f"{name}_decode"))
    if name == "atss":
        recorder.close("boxes", f"{name}_decode_shape", _clipped(boxes), case.tensor(f"{name}_decode_shape"))


@pytest.mark.parametrize("case", find_cases("mmdet_coders"), ids=lambda case: case.id)
def test_points_and_overlaps(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    boxes = ltrb_to_boxes(case.tensor("distances"), case.tensor("points"))
    recorder.close("boxes", "point_decode", boxes, case.tensor("point_decode"))
    recorder.close("boxes", "point_decode_shape", _clipped(boxes), case.tensor("point_decode_shape"))
    anchors, gts = case.tensor("anchors")[:, None], case.tensor("gts")[None]
    recorder.close("centerness", "iou", elementwise_iou(anchors, gts), case.tensor("iou"))
    recorder.close("centerness", "giou", 1 - giou_loss(*torch.broadcast_tensors(anchors, gts)), case.tensor("giou"))
    recorder.close("centerness", "fcos_centerness", centerness_of(case.tensor("ltrb")), case.tensor("fcos_centerness"))


def _priors(anchors: Tensor) -> SimpleNamespace:
    """Anchors that stand on no grid."""
    return SimpleNamespace(boxes=anchors, plus_one=0.0)


def _clipped(boxes: Tensor) -> Tensor:
    """Within the image of 120 x 150 pixels of these cases."""
    clipped = Boxes(boxes.clone())
    clipped.clip((120, 150))
    return clipped.tensor
