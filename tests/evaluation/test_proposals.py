"""Recall of proposals against numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import Tensor, nn

from detkit.engine.evaluate import evaluate
from tests.toys.datasets import register_toy_data
from tests.toys.detectors import LEVELS, tiny_cfg


class GivenProposals(nn.Module):
    """Proposes the same boxes, in pixels of the network's input, on every image."""

    def __init__(self, boxes: Tensor, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.boxes, self.input_size = boxes, input_size

    def forward(self, images: Any, features: Any, gt_instances: Any = None) -> tuple[list[Instances], dict[str, Tensor]]:
        assert images.image_sizes == [self.input_size]
        found = Instances(self.input_size, proposal_boxes=Boxes(self.boxes), objectness_logits=torch.arange(len(self.boxes), 0, -1.0))
        return [found], {}


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """One image of 90 x 60 pixels with two objects, which the network sees at 120 x 80."""
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)).save(data / "1.png")
    boxes = [[10, 5, 30, 20], [50, 30, 30, 24]]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 90, "height": 60}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    (data / "two.json").write_text(json.dumps(content))
    cfg = tiny_cfg()
    cfg.DATASETS.TEST = (register_toy_data(data / "two.json", "two_boxes"),)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GeneralizedRCNN", "FCOSRPN"
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = list(LEVELS)
    cfg.MODEL.FCOS_RPN.HEAD.CHANNELS, cfg.MODEL.FCOS_RPN.HEAD.NUM_CONVS = 32, 1
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "StandardROIHeads", 1
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = "FastRCNNConvFCHead", 1, 16
    cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = 80, 0, str(tmp_path / "out")
    return cfg


def recall(cfg: Any, boxes: list[list[float]]) -> dict[str, float]:
    """Of proposals given as xyxy in pixels of the file."""
    model = build_model(cfg).eval()
    model.proposal_generator = GivenProposals(torch.tensor(boxes) * (80 / 60), (80, 120))
    return evaluate(cfg, model, build_loader=build_detection_test_loader)["two_boxes"]["box_proposals"]


def test_recall_of_proposals_in_another_size_than_the_files(cfg: Any) -> None:
    """One object exactly; the other by a box that has 0.825 of it: found at the 7 thresholds of the IoU up to 0.8, of 10."""
    found = recall(cfg, [[10.0, 5.0, 40.0, 25.0], [50.0, 30.0, 80.0, 49.8], [0.0, 0.0, 5.0, 5.0]])
    assert found["AR@100"] == pytest.approx(85.0) and found["AR@1000"] == pytest.approx(85.0)
    assert found["ARs@100"] == pytest.approx(85.0)


def test_recall_without_a_fitting_proposal(cfg: Any) -> None:
    assert recall(cfg, [[10.0, 5.0, 40.0, 25.0], [0.0, 30.0, 30.0, 54.0]])["AR@100"] == pytest.approx(50.0)
    assert recall(cfg, [[0.0, 40.0, 5.0, 50.0]])["AR@100"] == 0
