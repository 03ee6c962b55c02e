"""Each method learns one small batch by heart."""

import pytest
import torch
from detectron2.modeling import build_model

from tests.toys.batch import average_precision, make_batch
from tests.toys.detectors import tiny_cfg

#: detectors of the papers' tables that learn from other parts than FCOS and ATSS do
RETINANET = ["ASSIGNER", "IoUAssigner", "ANCHORS.SCALES", "[4.0, 5.04, 6.35]", "ANCHORS.RATIOS", "[0.5, 1.0, 2.0]", "HEAD.QUALITY", "none"]
RETINANET += ["HEAD.SCALES", "False", "LOSS.BOX", "smooth_l1", "LOSS.BOX_WEIGHT", "0.25", "LOSS.BOX_WEIGHTING", "uniform"]
IOU_QUALITY = ["BOX_CODER.NAME", "relu", "HEAD.QUALITY", "box", "LOSS.BOX", "giou", "LOSS.QUALITY", "iou", "LOSS.BOX_WEIGHTING", "uniform"]
PURE_FCOS = ["LOSS.BOX", "smooth_l1", "HEAD.SCALES", "False"]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("FCOS", []),
        ("ATSS", []),
        ("DW", []),
        pytest.param("ATSS", RETINANET, marks=pytest.mark.slow),
        pytest.param("FCOS", IOU_QUALITY, marks=pytest.mark.slow),
        pytest.param("FCOS", PURE_FCOS, marks=pytest.mark.slow),
    ],
    ids=["FCOS", "ATSS", "DW", "RetinaNet", "FCOS with IoU quality", "FCOS without IoU loss"],
)
def test_one_batch_is_learned_by_heart(method, changes):
    torch.manual_seed(0)
    cfg = tiny_cfg(method)
    cfg.MODEL[method].HEAD.NUM_CONVS = 2
    cfg.MODEL[method].merge_from_list(changes)
    model, batch = build_model(cfg), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 400)
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    assert average_precision(model, batch) > 90
