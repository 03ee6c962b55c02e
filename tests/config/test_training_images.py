"""Which images of a dataset a shipped config trains on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detkit.config import get_cfg
from detkit.data import register_coco_folder
from detkit.engine.data_loader import build_train_loader

from .architectures import ROOT

#: image -> its annotations: nothing, a crowd alone, a person without labeled keypoints, one with them
OBJECTS = {1: [], 2: [{"iscrowd": 1, "labeled": 0}], 3: [{"iscrowd": 0, "labeled": 0}], 4: [{"iscrowd": 0, "labeled": 17}]}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, name = tmp_path_factory.mktemp("people"), "people_of_four_kinds"
    images, annotations = [], []
    for number, objects in OBJECTS.items():
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
        for each in objects:
            keypoints = [value for point in range(17) for value in (10 + point, 20, 2 if point < each["labeled"] else 0)]
            box = {"bbox": [5, 5, 40, 30], "area": 1200, "category_id": 1, "iscrowd": each["iscrowd"]}
            about = {"id": len(annotations) + 1, "image_id": number, "keypoints": keypoints, "num_keypoints": each["labeled"]}
            annotations.append(box | about)
    category = {"id": 1, "name": "person", "keypoints": [str(point) for point in range(17)], "skeleton": []}
    path = folder / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    register_coco_folder(name, path, folder)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def images_of(config: str | None, dataset: str) -> set[int]:
    cfg = get_cfg()
    if config:
        cfg.merge_from_file(str(ROOT / "configs" / f"{config}.yaml"))
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = (dataset,), 1, 0, 0
    loader = iter(build_train_loader(cfg, lambda record: record))
    return {next(loader)[0]["image_id"] for _ in range(40)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {1, 2, 3, 4}),  # own data
        ("quick/fcos_mobilenetv2", {1, 2, 3, 4}),
        ("sparsercnn/sparsercnn_R_50_FPN_100pro_3x", {1, 2, 3, 4}),
        ("sparsercnn/sparsercnn_R_50_FPN_100pro_3x_mmdet", {3, 4}),
        ("fcos/fcos_R_50_FPN_1x", {3, 4}),
        ("atss/atss_R_50_FPN_1x", {3, 4}),
        ("dw/dw_R_50_FPN_1x", {3, 4}),
        ("lsnet/lsnet_pose_R_50_FPN_60e_ms", {3, 4}),  # any annotated person, whether or not keypoints are labeled
    ],
)
def test_images_without_objects(config: str | None, expected: set[int], people: str) -> None:
    assert images_of(config, people) == expected
