"""Datasets of others, read in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from detkit.config import get_cfg
from detkit.data import build_train_mapper, check_coco_folder, prepare_datasets


@pytest.mark.parametrize("name, classes", [("raccoon", ["raccoon"]), ("bccd", ["RBC", "WBC", "Platelets"]), ("pennfudan", ["person"])])
def test_own_data_by_config_alone(real_data: Path, tmp_path: Path, name: str, classes: list[str]) -> None:
    annotations = real_data / name / "annotations"
    if not annotations.is_dir():
        pytest.skip(f"there is no {annotations}")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "ATSS", str(tmp_path)
    files = ["DATASETS.TRAIN_JSON", str(annotations / "train.json"), "DATASETS.VAL_JSON", str(annotations / "val.json")]
    cfg.merge_from_list([*files, "DATASETS.NAME", name])
    prepare_datasets(cfg)
    assert cfg.MODEL.ATSS.NUM_CLASSES == len(classes)
    assert MetadataCatalog.get(f"{name}_val").thing_classes == classes
    mapped = build_train_mapper(cfg)(DatasetCatalog.get(f"{name}_train")[0])
    assert len(mapped["instances"]) > 0


def test_encoded_masks_of_pennfudan(real_data: Path, tmp_path: Path) -> None:
    json_file = real_data / "pennfudan" / "annotations" / "val.json"
    if not json_file.is_file():
        pytest.skip(f"there is no {json_file}")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "FCOS", str(tmp_path)
    cfg.DATASETS.TRAIN_JSON, cfg.DATASETS.VAL_JSON = str(json_file), ""
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    prepare_datasets(cfg)
    instances = build_train_mapper(cfg)(DatasetCatalog.get("custom_train")[0])["instances"]
    assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
    # the masks' own bounds are the boxes, up to what resizing rounds
    torch.testing.assert_close(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor, atol=4.0, rtol=0)


@pytest.mark.parametrize("task", ["instances", "person_keypoints"])
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_is_sound(real_data: Path, task: str, split: str) -> None:
    json_file = real_data / "coco" / "annotations" / f"{task}_{split}.json"
    if not json_file.is_file():
        pytest.skip(f"there is no {json_file}")
    assert not check_coco_folder("coco", json_file, real_data / "coco" / split).changed
