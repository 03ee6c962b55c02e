"""The crops of DETR and Sparse R-CNN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

from detkit.config import ConfigError, get_cfg
from detkit.data import CropMapper, build_train_mapper


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.INPUT.MAPPER = "CropMapper"
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.MIN_SIZES = "absolute_range", [40, 60], [64, 80]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48, 96), 200
    return cfg


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """A ramp of 100 x 150 pixels, red by column and green by row, with an object of 20 x 10 in its middle and one in a corner."""
    rows, columns = np.mgrid[:100, :150].astype(np.uint8)
    Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=-1)).save(tmp_path / "ramp.png")
    boxes = ([65.0, 45.0, 85.0, 55.0], [0.0, 0.0, 10.0, 10.0])
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "iscrowd": 0} for i, box in enumerate(boxes)]
    return {"file_name": str(tmp_path / "ramp.png"), "image_id": 1, "height": 100, "width": 150, "annotations": annotations}


def test_half_of_the_images_are_cropped(cfg, record: dict) -> None:
    cfg.INPUT.FORMAT = "RGB"
    np.random.seed(0)
    mapper = build_train_mapper(cfg)
    cropped = 0
    for _ in range(60):
        item = mapper(record)
        height, width = item["image"].shape[1:]
        assert min(height, width) in (48, 96) and max(height, width) <= 200
        red, green = item["image"][0].float(), item["image"][1].float()
        if red.max() - red.min() < 140:  # not all columns
            cropped += 1
            assert green.max() - green.min() <= 60 / 64 * 100 + 1  # at most 60 of at least 64 rows
        boxes, classes = item["instances"].gt_boxes.tensor, item["instances"].gt_classes
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height, width, height])).all()
        for box in boxes[classes == 0]:
            x, y = ((box[:2] + box[2:]) / 2).long().tolist()
            assert 60 <= red[y, x] <= 90 and 40 <= green[y, x] <= 60  # the object is where the picture shows it
    assert 18 <= cropped <= 42


def test_longer_side_before_the_crop_can_be_bounded(cfg, record: dict) -> None:
    """A bound of 60 pixels makes images of 40 x 60, so that crops of at least 40 are as high as they are."""
    cfg.INPUT.CROP.MAX_SIZE, cfg.INPUT.FORMAT = 60, "RGB"
    np.random.seed(0)
    mapper = build_train_mapper(cfg)
    for _ in range(20):
        green = mapper(record)["image"][1].float()
        assert green.max() - green.min() > 95  # all rows


def test_objects_outside_the_crop_are_left_out(cfg, record: dict) -> None:
    np.random.seed(0)
    mapper = build_train_mapper(cfg)
    numbers = {len(mapper(record)["instances"]) for _ in range(40)}
    assert numbers >= {1, 2}


def test_evaluation_does_not_crop(cfg, record: dict) -> None:
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 100, 150
    assert CropMapper(cfg, is_train=False)(record)["image"].shape[1:] == (100, 150)


def test_two_kinds_of_crops_contradict_each_other(cfg) -> None:
    cfg.INPUT.CROP.ENABLED = True
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\.ENABLED .* leave it False"):
        build_train_mapper(cfg)
