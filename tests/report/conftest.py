"""A small run: plain images with two classes, imperfect detections, logged losses and AP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detkit.config import SafeCfgNode
from detkit.data import register_coco_folder
from detkit.engine.run_record import save_run_record
from tests.toys.detectors import tiny_cfg

DATASET = "report_test"
SIZE = (96, 128)


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Path]:
    """The annotation file of a registered dataset of five images, the last without objects."""
    images, annotations = [], []
    ramp = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3, dtype=np.uint8).reshape(*SIZE, 3)
    for image in range(1, 6):
        Image.fromarray(np.roll(ramp, image)).save(tmp_path / f"{image}.png")
        images.append({"id": image, "file_name": f"{image}.png", "height": SIZE[0], "width": SIZE[1]})
        for number in range(0 if image == 5 else 2):
            box = [10 + 55 * number, 8 * image, 40, 36]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": number + 1, "bbox": box, "area": 1440, "iscrowd": 0}
            )
    path = tmp_path / "annotations.json"
    categories = [{"id": 1, "name": "$ball & $chain"}, {"id": 2, "name": "cube"}, {"id": 3, "name": "never seen"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    register_coco_folder(DATASET, path, tmp_path)
    yield path
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def cfg(dataset: Path, tmp_path: Path) -> SafeCfgNode:
    cfg = tiny_cfg("ATSS")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (DATASET,)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 128
    cfg.SOLVER.MAX_ITER = 100
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    Path(cfg.OUTPUT_DIR).mkdir()
    return cfg


@pytest.fixture
def run_folder(cfg: SafeCfgNode, dataset: Path) -> Path:
    """A finished run: everything but a checkpoint."""
    folder = Path(cfg.OUTPUT_DIR)
    save_run_record(cfg)
    with (folder / "metrics.json").open("w") as file:
        for iteration in range(19, 100, 20):
            line: dict[str, Any] = {"iteration": iteration, "lr": 0.01, "time": 0.5, "total_loss": 2 / iteration, "loss_cls": 1 / iteration}
            file.write(json.dumps(line | ({"bbox/AP": 30.0, "bbox/AP50": 60.0} if iteration > 50 else {})) + "\n")
        file.write(json.dumps({"iteration": 100, "bbox/AP": 31.0, "bbox/AP50": 61.0}) + "\n")  # the evaluation after training
    results = folder / "inference" / DATASET / "coco_instances_results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps(detections_of(dataset)))
    return folder


def detections_of(annotation_file: Path) -> list[dict[str, Any]]:
    """All objects but those of image 1, boxes exact on image 2 only, one false alarm on image 3."""
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + (0 if a["image_id"] == 2 else 4), *a["bbox"][1:]],
            "score": 0.9,
        }
        for a in json.loads(annotation_file.read_text())["annotations"]
        if a["image_id"] != 1
    ]
    return [*found, {"image_id": 3, "category_id": 1, "bbox": [0, 0, 8, 8], "score": 0.95}]
