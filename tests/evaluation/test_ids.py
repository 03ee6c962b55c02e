"""Ids are names: whatever they are, the scores are those of the ids 1, 2, 3, ..."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from detkit import analysis
from detkit.config import SafeCfgNode
from detkit.data import register_coco_folder
from detkit.evaluation import (
    CocoEvaluation,
    DetectionEvaluator,
    EvaluationError,
    detection_limit,
    image_qualities,
    read_detections,
    read_ground_truth,
    read_unreadable,
)
from detkit.report import write_report
from tests.toys.detectors import tiny_cfg

NAME = "ids_test"
RNG = random.Random(0)
HASHES = [RNG.randrange(2**63, 2**64) for _ in range(40)]
#: kind of id -> the name of number 1, 2, ...
KINDS: dict[str, Callable[[int], Any]] = {
    "from 1": lambda number: number,
    "from 0": lambda number: number - 1,
    "negative": lambda number: number - 30,
    "64 bits": lambda number: sorted(HASHES)[number],
    "beyond 64 bits": lambda number: 2**70 + number,
    "texts": lambda number: f"name {number:03d}",
    "decimal": lambda number: number + 0.5,
}


def content_with(name: Callable[[int], Any]) -> dict[str, Any]:
    """Six images with three objects each, of three classes."""
    images = [{"id": name(i), "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(1, 7)]
    boxes = [[2, 3, 20, 15], [25, 8, 30, 20], [8, 24, 22, 20]]
    annotations = [
        {"id": name(3 * i + k - 3), "image_id": name(i), "category_id": name(k), "bbox": boxes[k - 1], "area": 300, "iscrowd": 0}
        for i in range(1, 7)
        for k in range(1, 4)
    ]
    categories = [{"id": name(k), "name": f"class {k}"} for k in range(1, 4)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def predictions(number: int) -> Instances:
    """Of an image: one object exactly, one shifted, one of another class."""
    rng = np.random.default_rng(number)
    boxes = torch.tensor([[2.0, 3, 22, 18], [27, 9, 57, 29], [8, 24, 30, 44]])
    scores = torch.tensor(rng.uniform(0.2, 1, 3))
    return Instances((48, 64), pred_boxes=Boxes(boxes), scores=scores, pred_classes=torch.tensor([0, 1, number % 3]))


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Writes and registers the data with ids of a kind; its annotation file."""
    for i in range(1, 7):
        Image.new("RGB", (64, 48), (40 * i, 90, 120)).save(tmp_path / f"{i}.png")

    def write(kind: str) -> Path:
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(content_with(KINDS[kind])))
        register_coco_folder(NAME, path, tmp_path)
        return path

    yield write
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)


def evaluate(folder: Path) -> dict[str, Any]:
    """Boxes, and their recall taken for proposals."""
    evaluator = DetectionEvaluator(NAME, output_dir=folder)
    for number, record in enumerate(DatasetCatalog.get(NAME), start=1):
        found = predictions(number)
        proposals = Instances((48, 64), proposal_boxes=found.pred_boxes, objectness_logits=found.scores.float())
        evaluator.process([record], [{"instances": found, "proposals": proposals}])
    return evaluator.evaluate()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "from 1"])
def test_scores_are_those_of_ids_from_1(register: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    register("from 1")
    expected = evaluate(tmp_path / "expected")
    assert 50 < expected["bbox"]["AP"] < 90 and set(expected) == {"bbox", "box_proposals"}
    path, name = register(kind), KINDS[kind]
    actual = evaluate(tmp_path / "out")
    for task, metrics in expected.items():
        assert actual[task] == pytest.approx(metrics, nan_ok=True), task
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [each["image_id"] for each in written] == [name(i) for i in range(1, 7) for _ in range(3)]
    assert {each["category_id"] for each in written} == {name(k) for k in (1, 2, 3)}
    # the same from the files: the page's evaluation, the quality of images, the analyses
    ground_truth = read_ground_truth(path)
    detections = read_detections(tmp_path / "out" / "coco_instances_results.json", ground_truth)
    evaluation = CocoEvaluation(ground_truth, detections)
    assert evaluation.average_precision.ap() == pytest.approx(expected["bbox"]["AP"])
    qualities = image_qualities(evaluation, score_threshold=0.0)
    assert list(qualities) == [name(i) for i in range(1, 7)]
    assert qualities[name(3)].found | qualities[name(3)].missed == {name(number) for number in (7, 8, 9)}
    reference = read_ground_truth(tmp_path / "from 1.json")
    others = read_detections(tmp_path / "expected" / "coco_instances_results.json", reference)
    agnostic = [analysis.class_agnostic_precision(*pair).ap() for pair in ((ground_truth, detections), (reference, others))]
    assert agnostic[0] == pytest.approx(agnostic[1])
    overlaps = [analysis.scores_and_overlaps(*pair).overlaps for pair in ((ground_truth, detections), (reference, others))]
    np.testing.assert_allclose(overlaps[0], overlaps[1])


def test_repeated_annotation_ids_are_different_objects(register: Callable[[str], Path], tmp_path: Path) -> None:
    path = register("from 1")
    expected = evaluate(tmp_path / "expected")
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["id"] = 5
    path.write_text(json.dumps(content, indent=1))
    assert evaluate(tmp_path / "out")["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)


@pytest.mark.parametrize("kind", ["from 0", "texts", "beyond 64 bits"])
def test_page(register: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    register("from 1")
    expected = evaluate(tmp_path / "expected")["bbox"]["AP"]
    register(kind)
    cfg: SafeCfgNode = tiny_cfg("ATSS")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.OUTPUT_DIR = 48, 64, str(tmp_path / "run")
    evaluate(tmp_path / "run" / "inference" / NAME)
    text = write_report(cfg, cfg.OUTPUT_DIR).read_text()
    assert f"<dt>box AP</dt><dd>{expected:.1f}</dd>" in text
    assert "3 of 3 found" in text


def test_images_that_could_not_be_read_do_not_count(register: Callable[[str], Path], tmp_path: Path) -> None:
    register("texts")
    evaluator = DetectionEvaluator(NAME, output_dir=tmp_path)
    records = DatasetCatalog.get(NAME)
    for record in records[1:]:
        boxes = torch.tensor([BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for each in record["annotations"]])
        classes = torch.tensor([each["category_id"] for each in record["annotations"]])
        found = Instances((48, 64), pred_boxes=Boxes(boxes.float()), scores=torch.ones(3), pred_classes=classes)
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] < 90 and evaluator.remarks == []  # an image that was not processed counts as missed
    assert read_unreadable(tmp_path) == []
    evaluator.leave_out([records[0]["image_id"]])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert evaluator.remarks == ["images that could not be read and do not count: 1."]
    assert read_unreadable(tmp_path) == ["name 001"]


# limits and reasons ---------------------------------------------------------------------------------------------------------------------


def crowded(count: int) -> dict[str, Any]:
    """An image with many objects of one class."""
    boxes = [[7 * (i % 40), 7 * (i // 40), 6, 6] for i in range(count)]
    annotations = [{"id": i, "image_id": 0, "category_id": 0, "bbox": boxes[i], "area": 36, "iscrowd": 0} for i in range(count)]
    images = [{"id": 0, "file_name": "1.png", "width": 300, "height": 300}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 0, "name": "cell"}]}


def all_found(count: int, folder: Path, *, detections_per_image: int) -> tuple[dict[str, float], list[str]]:
    """The scores of perfect detections, and the remarks."""
    path = folder / "crowded.json"
    path.write_text(json.dumps(crowded(count)))
    register_coco_folder(NAME, path, folder)
    evaluator = DetectionEvaluator(NAME, output_dir=folder, detections_per_image=detections_per_image)
    boxes = torch.tensor([each["bbox"] for each in crowded(count)["annotations"]], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    found = Instances((300, 300), pred_boxes=Boxes(boxes), scores=torch.linspace(1, 0.5, count), pred_classes=torch.zeros(count).long())
    evaluator.process([{"image_id": 0}], [{"instances": found[:detections_per_image]}])
    return evaluator.evaluate()["bbox"], evaluator.remarks


@pytest.mark.usefixtures("register")
def test_more_than_a_hundred_objects_in_an_image(tmp_path: Path) -> None:
    scores, remarks = all_found(150, tmp_path, detections_per_image=300)
    assert scores["AP"] == pytest.approx(100)
    assert remarks == [
        "bbox: an image has 150 objects of one class, so 300 detections of an image count (TEST.DETECTIONS_PER_IMAGE): AP 100.00. "
        "With COCO's limit of 100 it is 66.34."
    ]
    scores, remarks = all_found(150, tmp_path, detections_per_image=100)
    assert scores["AP"] == pytest.approx(66.34, abs=0.01)
    assert len(remarks) == 1 and "only 100 detections of an image count" in remarks[0] and "DETECTIONS_PER_IMAGE 150" in remarks[0]
    scores, remarks = all_found(80, tmp_path, detections_per_image=300)
    assert scores["AP"] == pytest.approx(100) and remarks == []


def test_coco_keeps_its_own_limit() -> None:
    annotations = crowded(150)["annotations"]
    assert detection_limit("coco_2017_val", annotations, 300, "bbox") == 100
    assert detection_limit("own_val", annotations, 300, "bbox") == 300
    assert detection_limit("own_val", annotations, 300, "keypoints") == 300
    assert detection_limit("own_val", annotations[:100], 300, "bbox") == 100


def test_keypoints_need_a_sigma_each(register: Callable[[str], Path], tmp_path: Path) -> None:
    path = register("texts")
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:-1]:  # the last one has none, which is no error
        annotation["keypoints"] = [annotation["bbox"][0] + 3, annotation["bbox"][1] + 4, 2, 0, 0, 0]
    path.write_text(json.dumps(content, indent=1))
    ground_truth = read_ground_truth(path)
    found = [
        {**{key: each[key] for key in ("image_id", "category_id", "bbox", "keypoints")}, "score": 0.5}
        for each in content["annotations"][:-1]
    ]
    precision = CocoEvaluation(ground_truth, found, task="keypoints", keypoint_sigmas=(0.1, 0.1)).average_precision
    assert precision.ap() == pytest.approx(100)
    with pytest.raises(EvaluationError, match=r"objects have 2 keypoints, but OKS has 17 sigmas. Set TEST.KEYPOINT_OKS_SIGMAS"):
        CocoEvaluation(ground_truth, found, task="keypoints")


def test_objects_without_a_mask_have_the_outline_of_their_box(register: Callable[[str], Path], tmp_path: Path) -> None:
    path = register("texts")
    ground_truth = read_ground_truth(path)
    outlines = []
    for each in ground_truth.dataset["annotations"]:
        x, y, width, height = each["bbox"]
        outlines.append([x, y, x + width, y, x + width, y + height, x, y + height])
    found = [
        {"image_id": each["image_id"], "category_id": each["category_id"], "bbox": each["bbox"], "segmentation": [outline], "score": 0.5}
        for each, outline in zip(ground_truth.dataset["annotations"], outlines, strict=True)
    ]
    for each in found:
        each["segmentation"] = ground_truth.annToRLE({"image_id": each["image_id"], "segmentation": each["segmentation"]})
    evaluation = CocoEvaluation(ground_truth, found, task="segm")
    assert evaluation.average_precision.ap() == pytest.approx(100)
    assert evaluation.numbered.num_outlines == 18
