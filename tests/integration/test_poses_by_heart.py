"""LSNet learns the poses of a few real photographs by heart."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model

from detkit.config import get_cfg
from detkit.data import register_coco_folder
from lsnet.mapper import LandmarkMapper

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "lsnet_pose_mobilenetv2.yaml"
NUM_IMAGES = 4
SHORTER_SIDE = 160
ITERATIONS = 400
#: labeled keypoints that every person of a picked image has at least
MIN_KEYPOINTS = 12


def pick_images(json_file: Path, folder: Path) -> Path:
    """Writes the annotations of the first images on which all persons are large and nearly completely labeled, and no crowds."""
    content = json.loads(json_file.read_text())
    persons: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        persons.setdefault(annotation["image_id"], []).append(annotation)
    fit = [
        i
        for i, every in persons.items()
        if all(p["num_keypoints"] >= MIN_KEYPOINTS and p["area"] > 128**2 and not p["iscrowd"] for p in every)
    ]
    picked = set(fit[:NUM_IMAGES])
    small = {key: [x for x in content[key] if x.get("image_id", x["id"]) in picked] for key in ("images", "annotations")}
    path = folder / "persons.json"
    path.write_text(json.dumps({"info": {}, "categories": content["categories"], **small}))
    return path


def keypoint_ap(model: torch.nn.Module, inputs: list[dict[str, Any]], folder: Path) -> float:
    evaluator = COCOEvaluator("persons_by_heart", output_dir=str(folder), use_fast_impl=False)
    evaluator.reset()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        evaluator.process(inputs, model.eval()(inputs))
        return evaluator.evaluate()["keypoints"]["AP"]


@pytest.mark.slow
def test_keypoint_ap_above_80(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    json_file = real_file("coco/annotations/person_keypoints_train2017.json")
    register_coco_folder("persons_by_heart", pick_images(json_file, tmp_path), json_file.parents[1] / "train2017")
    records = DatasetCatalog.get("persons_by_heart")
    assert len(records) == NUM_IMAGES

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.DATASETS.TRAIN, cfg.MODEL.DEVICE, cfg.MODEL.LSNET.NUM_CLASSES = ("persons_by_heart",), "cpu", 1
    mapper = LandmarkMapper(**{**LandmarkMapper.from_config(cfg), "augmentations": [T.ResizeShortestEdge(SHORTER_SIDE)]})
    inputs = [mapper(record) for record in records]

    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=ITERATIONS)
    for _ in range(ITERATIONS):
        optimizer.zero_grad()
        losses = model(inputs)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    ap = keypoint_ap(model, inputs, tmp_path)
    print(
        f"keypoint AP {ap:.1f} on {NUM_IMAGES} images after {ITERATIONS} iterations, losses",
        {k: round(float(v), 3) for k, v in losses.items()},
    )
    assert ap > 80
