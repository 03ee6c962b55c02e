from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from detkit.config import ConfigError, get_cfg
from detkit.data import DataError, ReadErrorMapper, build_train_mapper
from lsnet.finders import ContourFinder, ExtremePointFinder, JoinedFinder, KeypointFinder, LandmarkFinder, keypoint_box
from lsnet.mapper import LandmarkMapper
from lsnet.several_tasks import build_task
from tests.toys.outlines import SIZE, annotation, bean

FINDERS: dict[str, LandmarkFinder] = {
    "bbox": ExtremePointFinder(),
    "segm": ContourFinder(36, box_source="contour"),
    "pose": KeypointFinder(range(17)),
    "pose by keypoint boxes": KeypointFinder(range(17), box_source="keypoints"),
}
FINDERS["bbox+pose+segm"] = JoinedFinder([FINDERS["bbox"], FINDERS["pose"], ContourFinder(36, box_source="object", box_stands_in=False)])
CROP_AND_MIRROR = [T.RandomFlip(1.0), T.CropTransform(60, 20, 90, 90), T.ResizeTransform(90, 90, 180, 180)]


def mapper_of(task: str, augmentations: list[Any]) -> LandmarkMapper:
    return LandmarkMapper(True, finder=FINDERS[task], augmentations=augmentations, image_format="BGR")


def mapped(task: str, image_file: Path, annotations: list[dict], augmentations: list[Any] = ()) -> Instances:
    record = {"file_name": str(image_file), "height": SIZE[0], "width": SIZE[1], "image_id": 1, "annotations": annotations}
    return mapper_of(task, list(augmentations))(record)["instances"]


def pose(*labeled: int) -> np.ndarray:
    """17 keypoints of which these are seen."""
    points = np.stack([np.linspace(60, 100, 17), np.linspace(80, 40, 17), np.zeros(17)], axis=1)
    points[list(labeled), 2] = 2
    return points


ALL_KINDS = [
    annotation([bean()], keypoints=pose(*range(17))),
    annotation([bean(30, 40, 15), bean(70, 40, 20)], keypoints=pose(0, 3, 4)),
    annotation(mask_util.encode(np.asfortranarray(np.pad(np.ones((40, 50), np.uint8), ((40, 40), (50, 60))))), keypoints=pose(5)),
    annotation([[80.0, 60, 81, 60, 81, 61, 80, 61]]),
    annotation(box=[20, 30, 90, 80], keypoints=pose()),
    annotation(mask_util.encode(np.ones(SIZE, np.uint8, order="F")), crowd=1),
]


@pytest.mark.parametrize("augmentations", [[], CROP_AND_MIRROR, [T.RandomRotation([30, 30])]], ids=["none", "crop", "rotation"])
@pytest.mark.parametrize("task", FINDERS)
def test_all_kinds_of_objects(task: str, augmentations: list[Any], image_file: Path) -> None:
    instances = mapped(task, image_file, ALL_KINDS, augmentations)
    landmarks, boxes = instances.gt_landmarks, instances.gt_boxes.tensor
    assert landmarks.dtype == torch.float32 and landmarks.shape == (len(instances), FINDERS[task].num_landmarks, 3)
    assert landmarks.isfinite().all() and boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert set(landmarks[..., 2].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert len(instances) == (5 if task != "pose by keypoint boxes" else 3)  # the crowd is no object, and nothing is left out
    assert instances.gt_classes.tolist() == [0] * len(instances)


@pytest.mark.parametrize("task", FINDERS)
def test_images_without_objects(task: str, image_file: Path) -> None:
    for objects in ([], [annotation(box=[1, 1, 50, 50], crowd=1)]):
        instances = mapped(task, image_file, objects, CROP_AND_MIRROR)
        assert instances.gt_landmarks.shape == (0, FINDERS[task].num_landmarks, 3)
        assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.shape == (0,)


def test_objects_out_of_the_crop_are_gone(image_file: Path) -> None:
    slanted = annotation([[10.0, 10, 110, 100, 10, 100]], keypoints=pose())  # its box reaches into the crop, the object does not
    for task in FINDERS:
        assert len(mapped(task, image_file, [slanted], [T.CropTransform(70, 5, 60, 40)])) == 0


def test_boxes_and_classes_are_those_of_detectron2(image_file: Path) -> None:
    things = [{**thing, "category_id": index} for index, thing in enumerate(ALL_KINDS)]
    augmentations = [T.RandomFlip(1.0), T.Resize((200, 300))]
    ours = mapped("bbox", image_file, things, augmentations)
    record = {"file_name": str(image_file), "annotations": things}
    theirs = DatasetMapper(True, augmentations=augmentations, image_format="BGR")(record)["instances"]
    torch.testing.assert_close(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    torch.testing.assert_close(ours.gt_classes, theirs.gt_classes)


def test_keypoints_are_those_of_detectron2(image_file: Path) -> None:
    things = [thing for thing in ALL_KINDS if "keypoints" in thing]
    record = {"file_name": str(image_file), "annotations": things}
    kwargs = {"augmentations": CROP_AND_MIRROR, "image_format": "BGR", "use_keypoint": True, "keypoint_hflip_indices": np.arange(17)}
    theirs = DatasetMapper(True, **kwargs)(record)["instances"].gt_keypoints.tensor
    ours = mapped("pose", image_file, things, CROP_AND_MIRROR).gt_landmarks
    torch.testing.assert_close(ours[..., 2], theirs[..., 2])
    torch.testing.assert_close(ours[theirs[..., 2] > 0], theirs[theirs[..., 2] > 0])


@pytest.mark.parametrize(
    "augmentation", [T.RotationTransform(*SIZE, 45, expand=False), T.CropTransform(70, 30, 60, 60)], ids=["turn", "crop"]
)
def test_poses_have_the_boxes_of_objects(augmentation: T.Transform, image_file: Path) -> None:
    boxes = [mapped(task, image_file, ALL_KINDS, [augmentation]).gt_boxes.tensor for task in ("pose", "bbox")]
    torch.testing.assert_close(*boxes)


def test_boxes_of_contours_are_their_bounds(image_file: Path) -> None:
    instances = mapped("segm", image_file, ALL_KINDS, CROP_AND_MIRROR)
    points = instances.gt_landmarks[..., :2]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.cat([points.amin(1), points.amax(1)], dim=1))


@pytest.mark.parametrize(
    "options, finder, box_source",
    [
        (["TASKS", ["bbox"]], ExtremePointFinder, "object"),
        (["TASKS", ["segm"], "CONTOUR_LANDMARKS", 72], ContourFinder, "contour"),
        (["TASKS", ["segm"], "SEGM_BOX", "object"], ContourFinder, "object"),
        (["TASKS", ["pose"]], KeypointFinder, "object"),
        (["TASKS", ["pose"], "POSE_BOX", "keypoints"], KeypointFinder, "keypoints"),
    ],
)
def test_configs_name_the_mapper_and_its_task(options: list[Any], finder: type, box_source: str) -> None:
    cfg = get_cfg()
    cfg.INPUT.MAPPER, cfg.DATASETS.TRAIN = "LandmarkMapper", ("keypoints_coco_2017_train",)
    cfg.merge_from_list([f"MODEL.LSNET.{word}" if index % 2 == 0 else word for index, word in enumerate(options)])
    mapper = build_train_mapper(cfg)._mapper
    assert type(mapper.finder) is finder and getattr(mapper.finder, "box_source", "object") == box_source
    assert mapper.finder.num_landmarks == build_task(cfg).landmarks.num_landmarks
    if finder is KeypointFinder:
        assert mapper.finder.mirrored_order.tolist()[:5] == [0, 2, 1, 4, 3]


def test_poses_need_keypoints_in_the_data() -> None:
    cfg = get_cfg()
    cfg.INPUT.MAPPER, cfg.DATASETS.TRAIN, cfg.MODEL.LSNET.TASKS = "LandmarkMapper", ("coco_2017_train",), ["pose"]
    with pytest.raises(ConfigError, match=r"learns 17 keypoints \(MODEL.LSNET.NUM_KEYPOINTS\), but the dataset coco_2017_train names 0"):
        build_train_mapper(cfg)


def test_boxes_of_keypoints() -> None:
    one, line, none = pose(4), pose(), pose()
    line[[1, 2], :2], line[[1, 2], 2] = [[10, 20], [30, 20]], 1
    boxes = np.stack([keypoint_box(keypoints) for keypoints in (pose(*range(17)), one, line, none)])
    np.testing.assert_allclose(boxes, [[60, 40, 100, 80], [69.5, 69.5, 70.5, 70.5], [10, 19.5, 30, 20.5], [0, 0, 0, 0]])


def test_wrong_keypoints_name_the_image(image_file: Path) -> None:
    record = {"file_name": str(image_file), "image_id": 7, "annotations": [annotation(box=[1, 1, 9, 9], keypoints=np.zeros((2, 3)))]}
    with pytest.raises(DataError, match=r"image\.png \(id 7\) cannot be used: an object has 2 keypoints"):
        ReadErrorMapper(mapper_of("pose", []))(record)


def test_the_original_annotations_stay_as_they_are(image_file: Path) -> None:
    things = [annotation([bean()], keypoints=pose(1, 2))]
    before = repr(things)
    for task in FINDERS:
        mapped(task, image_file, things, CROP_AND_MIRROR)
    assert repr(things) == before


@pytest.mark.parametrize("task", FINDERS)
@pytest.mark.parametrize("name", ["coco", "pennfudan"])
def test_real_data(name: str, task: str, real_data: Path) -> None:
    files = {
        "coco": ("coco/annotations/instances_val2017.json", "coco/val2017"),
        "pennfudan": ("pennfudan/annotations/val.json", "pennfudan/val"),
    }
    if name == "coco" and task.startswith("pose"):
        files["coco"] = ("coco/annotations/person_keypoints_val2017.json", "coco/val2017")
    json_file, images = (real_data / path for path in files[name])
    if not json_file.is_file():
        pytest.skip(f"there is no {json_file}")
    records = load_coco_json(str(json_file), str(images), extra_annotation_keys=["keypoints"])[:: 15 if name == "coco" else 4]
    np.random.seed(0)  # Detectron2's augmentations draw from it
    augmentations = [
        T.RandomCrop("relative_range", (0.5, 0.5)),
        T.RandomFlip(),
        T.ResizeShortestEdge(256, 400),
        T.RandomRotation([-20, 20]),
    ]
    mapper = mapper_of(task, augmentations)
    objects = 0
    for record in records:
        output = mapper(record)
        instances, (height, width) = output["instances"], output["image"].shape[1:]
        points = instances.gt_landmarks[instances.gt_landmarks[..., 2] > 0][:, :2]
        assert points.isfinite().all() and (points >= -1.5).all() and (points <= torch.tensor([width, height]) + 1.5).all()
        objects += len(instances)
    assert objects > 4 or (name == "pennfudan" and task == "pose by keypoint boxes")  # no keypoints there
