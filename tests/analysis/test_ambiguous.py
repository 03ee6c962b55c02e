"""Detections from ambiguous locations, on an image whose locations and objects are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detkit.analysis import ambiguous_detections
from detkit.structures import DenseOutputs
from tests.toys.detectors import tiny_cfg

#: a small object of class 0 inside a larger one of class 1, and one of class 0 that overlaps another of its class; all learn on P3
BOXES = [[8.0, 8, 40, 40], [0.0, 0, 56, 56], [72.0, 8, 120, 56], [72.0, 8, 112, 48]]
CLASSES = [0, 1, 0, 0]
#: locations of P3 (row, column) that detect: in both classes, in one object alone, in two of the same class, in none
DETECTING = [(2, 2), (6, 6), (3, 11), (12, 4)]


def inputs() -> dict:
    objects = Instances((128, 128), gt_boxes=Boxes(torch.tensor(BOXES)), gt_classes=torch.tensor(CLASSES))
    return {"image": torch.zeros(3, 128, 128), "height": 128, "width": 128, "instances": objects}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """An FCOS without center sampling that detects at the chosen locations, one box of 8 pixels each."""
    cfg = tiny_cfg()
    cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = 0.0
    model = build_model(cfg).eval()
    raw = model.head.forward

    def forward(features: list[Tensor]) -> DenseOutputs:
        outputs = raw(features)
        logits = [torch.full_like(x, -20.0) for x in outputs.logits]
        boxes = [torch.full_like(x, 1.4) for x in outputs.boxes]
        for row, column in DETECTING:
            logits[0][:, 0, row, column] = 5.0
        return replace(outputs, logits=logits, boxes=boxes, quality=[torch.full_like(x, 5.0) for x in outputs.quality])

    monkeypatch.setattr(model.head, "forward", forward)
    return model


def test_detections_are_counted_by_the_location_that_made_them(model: torch.nn.Module) -> None:
    found = ambiguous_detections(model, [inputs(), inputs()])
    assert (found.detections, found.ambiguous, found.ambiguous_classes) == (8, 4, 2)
    assert (found.share, found.classes_share) == (50.0, 25.0)


def test_images_without_objects_have_no_ambiguous_locations(model: torch.nn.Module) -> None:
    empty = inputs() | {"instances": Instances((128, 128), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))}
    assert ambiguous_detections(model, [empty]).ambiguous == 0
