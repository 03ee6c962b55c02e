"""A detector and a dataset that train in milliseconds: colored rectangles on noise, two strided convolutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from tests.tiny import tiny_cfg

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def make_toy_data(folder: Path, *, num_images: int = 8, equal_sizes: bool = True, annotated: bool = True) -> Path:
    """Writes images and a COCO json; every fourth image is empty.

    Returns:
        the json file; the images lie beside it.
    """
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
