"""Detections of mmdetection's RetinaNet, FreeAnchor, AutoAssign and PAA for weights that are made from their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit.checkpoint import convert_state_dict
from detkit.model_zoo import find, get_config
from tests.checkpoint.official_layouts import procedural

from .key_lists import key_list
from .outputs import adjusted, image

OUTPUTS: dict[str, Any] = json.loads((Path(__file__).parent / "mmdetection_outputs.json").read_text())
ROWS = {
    "retinanet": "retinanet_R_50_FPN_1x_mmdet",
    "retinanet_caffe": "retinanet_R_50_caffe_FPN_1x_mmdet",
    "freeanchor": "freeanchor_R_50_FPN_1x_mmdet",
    "autoassign": "autoassign_R_50_FPN_1x_mmdet",
    "paa": "paa_R_50_FPN_1x_mmdet",
}


@pytest.mark.parametrize("case", ROWS)
@torch.no_grad()
def test_detections_are_those_of_mmdetection(case: str) -> None:
    expected, entry = OUTPUTS[case], find(ROWS[case])
    weights = adjusted(procedural(key_list(entry)))
    assert len(weights) == expected["keys"]
    cfg = get_config(entry.name)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", ""])
    model = build_model(cfg).eval()
    converted, report = convert_state_dict(weights, model)
    assert report.complete, str(report)
    model.load_state_dict(converted)
    inputs = image().flip(0) if cfg.INPUT.FORMAT == "RGB" else image()
    found = model([{"image": inputs, "height": 128, "width": 160}])[0]["instances"]
    assert len(found) == len(expected["scores"]) == 100
    ours, theirs = (
        _sorted(found.scores, found.pred_classes, found.pred_boxes.tensor),
        _sorted(torch.tensor(expected["scores"]), torch.tensor(expected["classes"]), torch.tensor(expected["boxes"])),
    )
    for mine, other, tolerance in zip(ours, theirs, (1e-5, 0, 1e-2), strict=True):
        assert_close(mine, other, rtol=1e-4 if tolerance else 0, atol=tolerance)


def _sorted(scores: torch.Tensor, classes: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """By class and position, as scores may be nearly equal."""
    order = sorted(range(len(scores)), key=lambda i: (int(classes[i]), *(round(float(x), 1) for x in boxes[i])))
    return scores[order], classes[order], boxes[order]
