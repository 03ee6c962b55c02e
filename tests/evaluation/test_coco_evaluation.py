from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from detkit.config import get_cfg
from detkit.data import register_coco_folder
from detkit.evaluation import (
    DETECTIONS_FILE,
    CocoEvaluation,
    DetectionEvaluator,
    build_evaluator,
    inference_folder,
    read_detections,
    read_ground_truth,
)


def test_scores_equal_those_of_detectron2(
    ground_truth_file: Path, detections: list[dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = "evaluation_test"
    MetadataCatalog.get(name).set(
        json_file=str(ground_truth_file),
        evaluator_type="coco",
        thing_classes=["ball", "cube", "never seen"],
        thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 9: 2},
    )
    request.addfinalizer(lambda: MetadataCatalog.remove(name))
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluators = [build_evaluator(cfg, name), COCOEvaluator(name, output_dir=str(tmp_path / "theirs"), use_fast_impl=False)]
    for evaluator in evaluators:
        evaluator.reset()
        for image_id in (1, 2, 3):
            own = [d for d in detections if d["image_id"] == image_id]
            boxes = torch.tensor([d["bbox"] for d in own]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            instances = Instances((100, 200), pred_boxes=Boxes(boxes), scores=torch.tensor([d["score"] for d in own]))
            instances.pred_classes = torch.tensor([{3: 0, 7: 1}[d["category_id"]] for d in own], dtype=torch.int64)
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    ours, theirs = (evaluator.evaluate()["bbox"] for evaluator in evaluators)
    assert ours == pytest.approx(theirs, nan_ok=True) and list(ours) == list(theirs)
    written, expected = (
        json.loads((folder / DETECTIONS_FILE).read_text()) for folder in (inference_folder(cfg, name), tmp_path / "theirs")
    )
    assert written == expected != []

    ground_truth = read_ground_truth(ground_truth_file)
    precision = CocoEvaluation(ground_truth, read_detections(inference_folder(cfg, name) / DETECTIONS_FILE, ground_truth)).average_precision
    actual = precision.table() | {f"AP-{c}": precision.ap(class_name=c) for c in precision.class_names}
    assert actual == pytest.approx(theirs, nan_ok=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools, on recent numpy
@pytest.mark.parametrize("task", ["segm", "keypoints"])
def test_masks_and_keypoints_of_coco_equal_those_of_detectron2(tmp_path: Path, request: pytest.FixtureRequest, task: str) -> None:
    data = Path(os.environ.get("DETKIT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "coco"
    json_file = data / "annotations" / f"{'instances' if task == 'segm' else 'person_keypoints'}_val2017.json"
    if not json_file.is_file():
        pytest.skip(f"there is no {json_file}; set DETKIT_DATA")
    name = f"evaluation_test_{task}"
    register_coco_folder(name, json_file, data / "val2017")
    for catalog in (DatasetCatalog, MetadataCatalog):
        request.addfinalizer(lambda catalog=catalog: catalog.remove(name))
    records = [record for record in DatasetCatalog.get(name) if record["annotations"]][:25]
    evaluators = [
        DetectionEvaluator(name, output_dir=tmp_path / "ours"),
        COCOEvaluator(name, output_dir=str(tmp_path / "theirs"), use_fast_impl=False),
    ]
    for evaluator in evaluators:
        evaluator.reset()
        rng = np.random.default_rng(0)
        for record in records:
            evaluator.process([record], [{"instances": disturbed(record, rng, task)}])
    ours, theirs = (evaluator.evaluate() for evaluator in evaluators)
    assert set(ours) == set(theirs) == {"bbox", task}
    for each in ours:
        assert ours[each] == pytest.approx(theirs[each], nan_ok=True)
        assert 1 < ours[each]["AP"] < 95


def disturbed(record: dict[str, Any], rng: np.random.Generator, task: str) -> Instances:
    """The objects of an image, a little off."""
    annotations = record["annotations"]
    boxes = np.array([each["bbox"] for each in annotations]) + rng.normal(0, 2, (len(annotations), 4))
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:].clip(min=1)
    size = (record["height"], record["width"])
    found = Instances(size, pred_boxes=Boxes(torch.tensor(boxes)), scores=torch.tensor(rng.uniform(0, 1, len(boxes))))
    found.pred_classes = torch.tensor([each["category_id"] for each in annotations])
    if task == "segm":
        masks = [np.roll(mask_of(each["segmentation"], size), rng.integers(0, 3), axis=1) for each in annotations]
        found.pred_masks = torch.tensor(np.stack(masks))
    else:
        keypoints = np.array([each["keypoints"] for each in annotations]).reshape(-1, 17, 3)
        found.pred_keypoints = torch.tensor(keypoints + rng.normal(0, 2, keypoints.shape))
    return found


def mask_of(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    runs = segmentation if isinstance(segmentation, dict) else mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    return mask_util.decode(runs).astype(bool)


def test_precision_recall_by_hand(ground_truth_file: Path, detections: list[dict[str, Any]]) -> None:
    precision = CocoEvaluation(read_ground_truth(ground_truth_file), detections).average_precision
    assert precision.class_names == ("ball", "cube", "never seen")
    assert precision.num_objects == (3, 1, 0)
    # balls at IoU 0.5: three hits in the order of the scores, nothing false
    np.testing.assert_allclose(precision.precision_at(0.5, "ball"), 1.0)
    # at 0.75 the third ball still counts (IoU 0.875); the cube (0.8) comes before its only false alarm
    np.testing.assert_allclose(precision.precision_at(0.75), 1.0)
    # at 0.9 two of three balls are left and no cube
    assert precision.ap(iou=0.9, class_name="cube") == 0.0
    assert precision.ap(iou=0.9, class_name="ball") == pytest.approx(100 * 67 / 101)
    assert math.isnan(precision.ap(class_name="never seen"))
    assert np.isnan(precision.precision_at(0.5, "never seen")).all()


def test_no_detections_score_zero(ground_truth_file: Path) -> None:
    precision = CocoEvaluation(read_ground_truth(ground_truth_file), []).average_precision
    assert precision.ap() == 0.0
    np.testing.assert_array_equal(precision.precision_at(0.5), 0.0)


def test_masks_are_sized_by_their_own_area(ground_truth_file: Path) -> None:
    ground_truth = read_ground_truth(ground_truth_file)
    for annotation in ground_truth.dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    rle = ground_truth.annToRLE(ground_truth.anns[1])
    found = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 200, 100], "segmentation": rle, "score": 0.5}
    precision = CocoEvaluation(ground_truth, [found], task="segm").average_precision
    assert precision.ap(iou=0.95, class_name="ball") == pytest.approx(100 * 34 / 101)
    assert found["bbox"] == [0, 0, 200, 100]


def test_unknown_iou_is_named(ground_truth_file: Path) -> None:
    precision = CocoEvaluation(read_ground_truth(ground_truth_file), []).average_precision
    with pytest.raises(ValueError, match=r"IoU 0\.33"):
        precision.precision_at(0.33)
