"""Datasets on disk: colored rectangles on noise, on which a toy detector trains in milliseconds, and a COCO folder that tests break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from tests.toys.detectors import tiny_cfg

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def make_toy_data(folder: Path, *, num_images: int = 8, equal_sizes: bool = True, annotated: bool = True) -> Path:
    """Writes images and a COCO json into a folder, which is made if it is missing; every fourth image is empty.

    Returns:
        the json file; the images lie beside it.
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(num_images):
        height, width = (64, 96) if equal_sizes or i % 2 else (96, 64)
        picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for k in range(2 if i % 4 else 0):
            x, y, w, h = (int(v) for v in rng.integers([0, 0, 16, 16], [32, 32, 30, 30]))
            picture[y : y + h, x : x + w] = COLORS[(i + k) % 3]
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": (i + k) % 3 + 1, **box})
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(("blue", "green", "red"))]
    content = {"info": {}, "images": images, "categories": categories}
    path = folder / "toy.json"
    path.write_text(json.dumps(content | {"annotations": annotations} if annotated else content))
    return path


def register_toy_data(json_file: Path, name: str) -> str:
    """Registers the dataset, in the place of an earlier one of the name."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, str(json_file), str(json_file.parent))
    return name


def toy_cfg(name: str, output_dir: Path, method: str = "ATSS") -> Any:
    """A dense detector that trains as :func:`train_on_toy_data` says."""
    return train_on_toy_data(tiny_cfg(method), name, output_dir)


def train_on_toy_data(cfg: Any, name: str, output_dir: Path) -> Any:
    """Lets a config take six iterations of four images, with checkpoints every three."""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 4, 6
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS = 0.01, 2, (4,)
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(output_dir)
    return cfg


class CocoFolder:
    """Three images of 64 x 48 pixels with a box each of the classes 'ball' (id 3) and 'cube' (id 7), on disk."""

    def __init__(self, root: Path) -> None:
        self.json_file, self.image_root = root / "annotations" / "train.json", root / "train"
        self.json_file.parent.mkdir(parents=True)
        self.image_root.mkdir()
        rng = np.random.default_rng(0)
        self.content: dict[str, Any] = {
            "info": {},
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2, 3)],
            "annotations": [self.annotation(i, i, (3, 7, 3)[i - 1], [4 * i, 5, 20, 16]) for i in (1, 2, 3)],
            "categories": [{"id": 3, "name": "ball"}, {"id": 7, "name": "cube"}],
        }
        for image in self.content["images"]:
            Image.fromarray(rng.integers(0, 256, size=(48, 64, 3), dtype=np.uint8)).save(self.image_root / image["file_name"])
        self.write()

    @staticmethod
    def annotation(number: int, image: int, category: int, box: list[float]) -> dict[str, Any]:
        return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}

    def write(self) -> None:
        self.json_file.write_text(json.dumps(self.content))

    def image(self, number: int) -> Path:
        return self.image_root / f"{number}.jpg"
