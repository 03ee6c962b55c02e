"""A COCO json is parsed once per process, and becomes what Detectron2 would have made of it."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from pycocotools.coco import COCO

from detkit.config import get_cfg
from detkit.data import prepare_datasets, read_coco_json
from detkit.data.checks import annotations as annotation_files
from detkit.data.records import coco_records
from detkit.evaluation import build_evaluator, read_ground_truth
from tests.toys.datasets import CocoFolder


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each file is parsed, by us or by pycocotools."""
    counts: Counter[str] = Counter()
    original, pycocotools = annotation_files.read_json, COCO.__init__

    def read(path: Any) -> Any:
        counts[Path(path).name] += 1
        return original(path)

    def construct(self: COCO, annotation_file: Any = None) -> None:
        if annotation_file is not None:
            counts[Path(annotation_file).name] += 1
        pycocotools(self, annotation_file)

    monkeypatch.setattr(annotation_files, "read_json", read)
    monkeypatch.setattr(COCO, "__init__", construct)
    return counts


@pytest.mark.parametrize("registered_by", ["own files", "Detectron2"])
def test_checks_training_evaluation_and_report_parse_once(
    coco_folder: CocoFolder, tmp_path: Path, parsed: Counter[str], registered_by: str
) -> None:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "FCOS", str(tmp_path / "out")
    if registered_by == "own files":
        cfg.DATASETS.TRAIN_JSON = cfg.DATASETS.VAL_JSON = str(coco_folder.json_file)
    else:
        register_coco_instances("parsed_once", {}, str(coco_folder.json_file), str(coco_folder.image_root))
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("parsed_once",)
    try:
        prepare_datasets(cfg)
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            assert len(DatasetCatalog.get(name)) == 3
            build_evaluator(cfg, name).evaluate()
        read_ground_truth(coco_folder.json_file)
    finally:
        if "parsed_once" in DatasetCatalog:
            DatasetCatalog.remove("parsed_once")
    assert parsed == {"train.json": 1}


def test_a_repaired_copy_is_not_parsed_again(coco_folder: CocoFolder, tmp_path: Path, parsed: Counter[str]) -> None:
    coco_folder.image(2).unlink()
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "FCOS", str(tmp_path / "out")
    cfg.DATASETS.TRAIN_JSON = cfg.DATASETS.VAL_JSON = str(coco_folder.json_file)
    cfg.DATASETS.ON_BAD_IMAGE = "skip"
    prepare_datasets(cfg)
    assert len(DatasetCatalog.get("custom_val")) == 2
    build_evaluator(cfg, "custom_val").evaluate()
    assert parsed == {"train.json": 1}


def test_a_changed_file_is_read_again(coco_folder: CocoFolder) -> None:
    assert len(read_coco_json(coco_folder.json_file)["annotations"]) == 3
    del coco_folder.content["annotations"][0]
    coco_folder.write()
    os.utime(coco_folder.json_file, ns=(1, 1))
    assert len(read_coco_json(coco_folder.json_file)["annotations"]) == 2


def test_large_files_are_forgotten_when_a_dataset_was_made(
    coco_folder: CocoFolder, parsed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "_KEPT_BYTES", 10)
    for _ in range(2):
        read_coco_json(coco_folder.json_file)
    assert parsed == {"train.json": 1}
    annotation_files.release_annotations(coco_folder.json_file)
    read_coco_json(coco_folder.json_file)
    assert parsed == {"train.json": 2}


REAL = [
    ("coco/annotations/instances_train2017.json", "coco/train2017"),
    ("coco/annotations/person_keypoints_val2017.json", "coco/val2017"),
    ("pennfudan/annotations/train.json", "pennfudan/train"),
    ("bccd/annotations/val.json", "bccd/val"),
]


@pytest.mark.parametrize("json_file, image_root", REAL)
def test_records_are_those_of_detectron2(real_data: Path, json_file: str, image_root: str) -> None:
    path, root = real_data / json_file, str(real_data / image_root)
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    content = read_coco_json(path)
    before = copy.deepcopy(content)
    records = coco_records(content, root)
    assert records == load_coco_json(str(path), root, f"compared_{json_file}") and len(records) > 20
    assert content == before == json.loads(path.read_bytes())
