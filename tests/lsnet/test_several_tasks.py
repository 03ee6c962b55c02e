"""Boxes, masks and keypoints of one detector: what it learns from objects that lack some of them, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from lsnet.criterion import Positives, vector_pairs
from lsnet.finders import JoinedFinder, LandmarkFinder
from lsnet.mapper import LandmarkMapper
from lsnet.several_tasks import build_task
from tests.toys.outlines import SIZE, annotation, bean

from .test_detector import options
from .test_mapper import ALL_KINDS, CROP_AND_MIRROR, FINDERS, pose
from .test_whole import cfg_of, model_of

ALL = "bbox+pose+segm"
LANDMARKS = {"bbox": slice(0, 4), "pose": slice(4, 21), "segm": slice(21, 57)}
#: of the objects of :func:`batch_of`, by image, which have what a task learns
KNOWN = {
    "bbox": [[True, True, True], [True, True]],
    "pose": [[True, False, False], [False, False]],
    "segm": [[True, True, False], [False, True]],
}


def mapped(finder: LandmarkFinder, image_file: Path, annotations: list[dict], augmentations: Sequence[Any]) -> Instances:
    record = {"file_name": str(image_file), "height": SIZE[0], "width": SIZE[1], "image_id": 1, "annotations": annotations}
    return LandmarkMapper(True, finder=finder, augmentations=list(augmentations), image_format="BGR")(record)["instances"]


def batch_of(size: tuple[int, int] = (96, 128)) -> list[dict[str, Any]]:
    """Two images of three and two objects, whose landmarks lie on a circle within their box; some lack masks and keypoints."""
    rng = torch.Generator().manual_seed(0)
    boxes = [[[10, 12, 50, 60], [70, 20, 118, 52], [60, 60, 84, 90]], [[4, 4, 90, 80], [96, 40, 124, 92]]]
    batch = []
    for image, of_image in enumerate(boxes):
        instances = Instances(size)
        corners = torch.tensor(of_image, dtype=torch.float32)
        middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
        landmarks = torch.zeros(len(corners), 57, 3)
        for task, place in LANDMARKS.items():
            count = place.stop - place.start
            angle = torch.arange(count) * (2 * torch.pi / count)
            circle = -torch.stack([angle.sin(), angle.cos()], dim=1)
            landmarks[:, place, :2] = middle[:, None] + circle * half[:, None]
            landmarks[:, place, 2] = 2.0 * torch.tensor(KNOWN[task][image])[:, None]
        landmarks[0, 7, 2] = 0  # one keypoint of a pose
        instances.gt_boxes, instances.gt_landmarks = Boxes(corners), landmarks
        instances.gt_classes = torch.randint(0, 3, (len(corners),), generator=rng)
        pixels = torch.randint(90, 130, (3, *size), generator=rng, dtype=torch.uint8)
        for index, (x0, y0, x1, y1) in enumerate(of_image):
            pixels[:, y0:y1, x0:x1] = 40
            pixels[instances.gt_classes[index], y0:y1, x0:x1] = 220
        batch.append({"image": pixels, "instances": instances, "height": size[0], "width": size[1]})
    return batch


def losses_of(model: Any, batch: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(loss) for name, loss in model(batch).items()}


# data -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentations", [[], CROP_AND_MIRROR, [T.RandomRotation([30, 30])], [T.RandomRotation([90, 90], expand=True)]])
def test_landmarks_are_those_of_the_single_tasks(augmentations: Sequence[Any], image_file: Path) -> None:
    """Contours and keypoints are found beside each other under every augmentation; the box is that of the first task."""
    parts = [FINDERS["bbox"], FINDERS["pose"], FINDERS["segm"]]
    things = [thing for thing in ALL_KINDS[:4] if not thing["iscrowd"]]
    joined = mapped(JoinedFinder(parts), image_file, things, augmentations)
    alone = [mapped(part, image_file, things, augmentations) for part in parts]
    assert len(joined) == len(alone[0]) > 1
    assert_close(joined.gt_landmarks, torch.cat([each.gt_landmarks for each in alone], dim=1))
    assert_close(joined.gt_boxes.tensor, alone[0].gt_boxes.tensor)
    assert (joined.gt_landmarks[:, LANDMARKS["pose"], 2] > 0).any()


@pytest.mark.parametrize("tasks", [["segm", "pose", "bbox"], ["segm", "pose"], ["bbox", "segm"]])
def test_what_an_object_lacks_is_unknown(tasks: list[str], image_file: Path) -> None:
    cfg = cfg_of("bbox", "MODEL.LSNET.TASKS", tasks, "DATASETS.TRAIN", ("keypoints_coco_2017_train",))
    task = build_task(cfg)
    things = [
        annotation([bean()], keypoints=pose(0, 3)),
        annotation([bean(60, 70, 20)]),
        annotation(box=[20, 30, 90, 80], keypoints=pose()),
        annotation([[80.0, 60, 81, 60, 81, 61, 80, 61]]),
    ]
    found = mapped(task.finder(cfg.DATASETS.TRAIN), image_file, things, [])
    known = {name: (points[..., 2] > 0).any(1).tolist() for name, points in task.split(found.gt_landmarks).items()}
    expected = {"bbox": [True] * 4, "pose": [True, False, False, False], "segm": [True, True, False, False]}
    assert known == {name: expected[name] for name in tasks}
    boxes = torch.tensor([thing["bbox"] for thing in things])
    assert_close(found.gt_boxes.tensor.double(), boxes.double())
    assert list(known) == [name for name in ("bbox", "pose", "segm") if name in tasks]


# losses -----------------------------------------------------------------------------------------------------------------------------------


def test_objects_that_lack_something_are_no_positives_of_that_task() -> None:
    """Against a loop over the positives of every stage and task."""
    model = model_of(ALL, *options("HEAD.START_SIZE", 3.0)).train()
    batch = batch_of()
    images = model.preprocess_image(batch)
    outputs, gt = model.predict(images), model.ground_truth([item["instances"] for item in batch])
    losses = model.losses(outputs, gt, images.image_sizes)
    predictions, priors = model.pipeline.decode(outputs)
    stages = model.stages(outputs, predictions, priors, gt, images.image_sizes)
    for name, weight, stage in zip(("init", "refine"), (1.0, 2.0), stages, strict=True):
        positives = Positives.of(stage.assignment, stage.room)
        for part in model.task.parts:
            own = replace(gt, landmarks=gt.landmarks[:, :, LANDMARKS[part.name]])
            rows = model.criterion.vector_loss(vector_pairs(stage.vectors[part.name], part.landmarks, positives, own, priors))
            total, count = 0.0, 0
            for image in range(2):
                for place in positives.valid[image].nonzero().flatten().tolist():
                    if KNOWN[part.name][image][positives.gt_index[image, place]]:
                        total, count = total + rows[image, place].item(), count + 1
            assert 0 < count <= int(positives.valid.sum()) and (count < positives.valid.sum() or part.name == "bbox")
            assert float(losses[f"loss_{part.name}_{name}"]) == pytest.approx(weight * total / count, rel=1e-4)


def test_where_unknown_landmarks_lie_means_nothing() -> None:
    model, batch, moved = model_of(ALL).train(), batch_of(), batch_of()
    for item in moved:
        points = item["instances"].gt_landmarks
        whole = [points[:, place, 2].any(1) for place in LANDMARKS.values()]
        for place, known in zip(LANDMARKS.values(), whole, strict=True):
            points[~known, place, :2] = 7.0
    assert not torch.equal(batch[0]["instances"].gt_landmarks, moved[0]["instances"].gt_landmarks)
    assert losses_of(model, batch) == losses_of(model, moved)


@pytest.mark.parametrize("task", ["pose", "segm"])
def test_without_a_single_annotation_a_task_has_no_loss_and_no_gradient(task: str) -> None:
    model, batch = model_of(ALL).train(), batch_of()
    for item in batch:
        item["instances"].gt_landmarks[:, LANDMARKS[task], 2] = 0
    losses = model(batch)
    assert {name for name, loss in losses.items() if loss == 0} == {f"loss_{task}_init", f"loss_{task}_refine"}
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is None or g.isfinite().all() for g in gradients.values())
    assert not any(g.any() for name, g in gradients.items() if f"refine.{task}." in name)


@pytest.mark.parametrize("tasks", [ALL, "pose+segm", "bbox+segm"])
def test_every_weight_learns(tasks: str) -> None:
    model, batch = model_of(tasks).train(), batch_of()
    kept = [index for name in tasks.split("+") for index in range(57)[LANDMARKS[name]]]
    for item in batch:
        item["instances"].gt_landmarks = item["instances"].gt_landmarks[:, kept]
    losses = model(batch)
    sets = {"bbox", *tasks.split("+")}
    assert set(losses) == {"loss_cls"} | {f"loss_{name}_{stage}" for name in sets for stage in ("init", "refine")}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert list(model.head.towers) == ["bbox"]  # one for all


def test_boxes_that_no_task_asks_for_count_by_their_factor() -> None:
    batch = batch_of()
    for item in batch:
        item["instances"].gt_landmarks = item["instances"].gt_landmarks[:, 4:]
    low, high = (losses_of(model_of("pose+segm", *options("LOSS.BOX_FACTOR", factor)).train(), batch) for factor in (0.1, 0.4))
    assert {name for name in low if high[name] == pytest.approx(4 * low[name])} == {"loss_bbox_init", "loss_bbox_refine"}
    for item in batch:
        item["instances"].gt_landmarks[..., 2] = 0
    bare = losses_of(model_of("pose+segm").train(), batch)  # objects without masks and keypoints have boxes, too
    assert all(bare[name] == pytest.approx(low[name]) for name in low if "bbox" in name) and low["loss_bbox_init"] > 0


def test_landmarks_of_other_tasks_are_refused() -> None:
    batch = batch_of()
    for item in batch:
        item["instances"].gt_landmarks = item["instances"].gt_landmarks[:, :4]
    with pytest.raises(ValueError, match=r"4 landmarks are given, but bbox\+pose\+segm has 57: .*MODEL\.LSNET\.TASKS"):
        model_of(ALL).train()(batch)


# detections -------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_boxes_and_classes_are_those_of_a_detector_of_boxes_with_the_same_weights() -> None:
    """So weights of such a detector are a start, and the other tasks cost its boxes nothing but training."""
    several = model_of(ALL, *options("TEST.SCORE_THRESH", 0.0, "HEAD.START_SIZE", 3.0)).eval()
    alone = model_of("bbox", *options("TEST.SCORE_THRESH", 0.0)).eval()
    alone.load_state_dict({key: value for key, value in several.state_dict().items() if key in alone.state_dict()})
    (ours, theirs) = (model(batch_of())[0]["instances"] for model in (several, alone))
    assert len(ours) > 5
    assert set(ours.get_fields()) - set(theirs.get_fields()) == {"pred_keypoints", "pred_polygons", "pred_masks"}
    for field in theirs.get_fields():
        a, b = ours.get(field), theirs.get(field)
        assert_close(getattr(a, "tensor", a), getattr(b, "tensor", b))


def test_the_order_of_the_tasks_is_all_one() -> None:
    first, second = model_of("bbox+pose+segm"), model_of("segm+bbox+pose")
    assert_close(first.state_dict(), second.state_dict())
    assert [part.name for part in second.task.parts] == ["bbox", "pose", "segm"]


@pytest.mark.slow
def test_learns_a_batch_by_heart() -> None:
    """Masks and keypoints too, though three of five objects have no mask or no keypoints."""
    torch.manual_seed(0)
    model = model_of(ALL, *options("HEAD.LEVEL_SCALES", "ideal", "HEAD.START_SIZE", 3.0)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batch = batch_of()
    for _ in range(250):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(batch)
    for image, (output, inputs) in enumerate(zip(outputs, batch, strict=True)):
        found, gt = output["instances"], inputs["instances"]
        points = {"bbox": found.pred_extreme_points, "pose": found.pred_keypoints[..., :2], "segm": found.pred_polygons}
        for index, box in enumerate(gt.gt_boxes.tensor):
            best = int((found.pred_boxes.tensor - box).abs().sum(1).argmin())
            assert (found.pred_boxes.tensor[best] - box).abs().mean() < 5
            for task, place in LANDMARKS.items():
                if KNOWN[task][image][index]:
                    gap = (points[task][best] - gt.gt_landmarks[index, place, :2]).norm(dim=1)
                    assert gap[gt.gt_landmarks[index, place, 2] > 0].mean() < 8, (task, gap)
