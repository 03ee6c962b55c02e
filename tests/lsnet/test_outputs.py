"""Outputs as Detectron2's tools expect them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from detkit.data import register_coco_folder
from detkit.data.keypoints import COCO_PERSON_KEYPOINTS
from detkit.tta import Derived
from lsnet.landmarks import Contour, ExtremePoints, Keypoints
from lsnet.outlines import contour
from lsnet.several_tasks import SeveralTasks
from lsnet.tasks import BoxTask, ContourTask, PoseTask
from tests.toys.outlines import SIZE, bean

TASKS = {
    "bbox": BoxTask(ExtremePoints()),
    "segm": ContourTask(Contour(36), box_source="contour"),
    "pose": PoseTask(Keypoints(17), box_source="keypoints"),
}
TASKS["several"] = SeveralTasks([TASKS["bbox"], TASKS["pose"], TASKS["segm"]])
#: (height, width) of the network's input
INPUT = (240, 480)


def landmarks_of(task: str) -> Tensor:
    """Of two objects, in pixels of an image of ``SIZE``."""
    if task == "several":
        return torch.cat([landmarks_of(part) for part in ("bbox", "pose", "segm")], dim=1)
    outlines = [np.reshape(bean(50, 50, 30), (-1, 2)), np.reshape(bean(110, 70, 40), (-1, 2))]
    if task == "segm":
        return torch.from_numpy(np.stack([contour(outline, 36) for outline in outlines])).float()
    if task == "bbox":
        return torch.tensor([[[50.0, 20], [20, 50], [50, 80], [80, 50]], [[110, 40], [70, 70], [110, 100], [150, 70]]])
    return torch.stack([torch.linspace(30, 120, 17), torch.linspace(20, 100, 17)], dim=1).expand(2, 17, 2) + torch.tensor(
        [[[0.0, 0]], [[9, 3]]]
    )


def detections(task: str, *, input_size: tuple[int, int] = INPUT) -> Instances:
    """What the network finds on an enlarged image, after Detectron2's post-processing."""
    points = landmarks_of(task) * torch.tensor([input_size[1] / SIZE[1], input_size[0] / SIZE[0]])
    found = Instances(input_size)
    spanned = points[:, 21:] if task == "several" else points  # by the contours
    found.pred_boxes = Boxes(torch.cat([spanned.amin(1), spanned.amax(1)], dim=1))
    found.scores = torch.tensor([0.9, 0.8])
    found.pred_classes = torch.zeros(2, dtype=torch.long)
    found.pred_landmarks = points
    return TASKS[task].finish(detector_postprocess(found, *SIZE), input_size)


def test_extreme_points_are_scaled_to_the_image() -> None:
    found = detections("bbox")
    torch.testing.assert_close(found.pred_extreme_points, landmarks_of("bbox"))
    assert not found.has("pred_landmarks") and not found.has("pred_masks")


def test_polygons_are_scaled_and_masks_are_what_they_enclose() -> None:
    found = detections("segm")
    torch.testing.assert_close(found.pred_polygons, landmarks_of("segm"))
    assert found.pred_masks.shape == (2, *SIZE) and found.pred_masks.dtype == torch.bool
    boxes = found.pred_boxes.tensor
    for mask, box in zip(found.pred_masks, boxes, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).flatten()
        torch.testing.assert_close(seen.float(), box, atol=1.0, rtol=0)


def test_keypoints_have_the_score_of_their_detection() -> None:
    found = detections("pose")
    torch.testing.assert_close(found.pred_keypoints[..., :2], landmarks_of("pose"))
    torch.testing.assert_close(found.pred_keypoints[..., 2], found.scores[:, None].expand(2, 17))


@pytest.mark.parametrize("task", TASKS)
def test_no_detections(task: str) -> None:
    nothing = Instances(INPUT, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0), pred_classes=torch.zeros(0, dtype=torch.long))
    nothing.pred_landmarks = landmarks_of(task)[:0]
    found = TASKS[task].finish(detector_postprocess(nothing, *SIZE), INPUT)
    assert len(found) == 0 and all(len(values) == 0 for values in found.get_fields().values())


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_fields_of_a_mirrored_image_are_turned_back(task: str) -> None:
    found, width = detections(task), SIZE[1]
    rules = TASKS[task].merge_rules()
    name = "pred_extreme_points" if task == "bbox" else "pred_polygons"
    points = found.get(name)
    seen_in_mirror = rules[name].mirror(points, width)
    torch.testing.assert_close(rules[name].mirror(seen_in_mirror, width), points)
    if task == "bbox":
        assert seen_in_mirror[0].tolist() == [[110, 20], [80, 50], [110, 80], [140, 50]]
        return
    torch.testing.assert_close(seen_in_mirror[:, 0], points[:, 0] * torch.tensor([-1, 1]) + torch.tensor([width, 0]))
    assert isinstance(rules["pred_masks"], Derived)
    assert torch.equal(rules["pred_masks"].compute(found), found.pred_masks)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A registered dataset of one image, on which the detections above are right."""
    annotations = []
    for index in range(2):
        keypoints = torch.cat([landmarks_of("pose")[index] - 0.5, torch.full((17, 1), 2.0)], dim=1)
        outline = landmarks_of("segm")[index]
        x0, y0, x1, y1 = torch.cat([outline.amin(0), outline.amax(0)]).tolist()
        annotations.append(
            {
                "id": index + 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
            }
            | {"segmentation": [outline.flatten().tolist()], "keypoints": keypoints.flatten().tolist(), "num_keypoints": 17}
        )
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINTS), "skeleton": []}
    content = {"info": {}, "images": [{"id": 1, "file_name": "1.png", "width": SIZE[1], "height": SIZE[0]}]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({**content, "annotations": annotations, "categories": [category]}))
    register_coco_folder("lsnet_outputs", path, tmp_path)
    DatasetCatalog.get("lsnet_outputs")
    return "lsnet_outputs"


@pytest.mark.parametrize("task, name", [("segm", "segm"), ("pose", "keypoints"), ("segm", "bbox"), ("several", None)])
def test_detectron2s_evaluator_finds_them_right(task: str, name: str | None, dataset: str, tmp_path: Path) -> None:
    evaluator = COCOEvaluator(dataset, output_dir=str(tmp_path), use_fast_impl=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": detections(task)}])
    results = evaluator.evaluate()
    for each in ["bbox", "segm", "keypoints"] if name is None else [name]:
        assert results[each]["AP"] == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_detectron2s_visualizer_draws_them(task: str, dataset: str) -> None:
    blank = np.full((*SIZE, 3), 127, np.uint8)
    drawn = Visualizer(blank, MetadataCatalog.get(dataset)).draw_instance_predictions(detections(task)).get_image()
    assert drawn.shape == (*SIZE, 3) and (drawn != 127).any()
