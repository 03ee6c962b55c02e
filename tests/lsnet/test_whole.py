"""From annotations through the network to what evaluators take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from detkit.tta import MultiScaleDetector, NonMaximumSuppression, standard_fields
from tests.tiny import LEVELS, tiny_cfg

from .conftest import SIZE
from .test_mapper import ALL_KINDS, CROP_AND_MIRROR, mapper_of

FIELDS = {"bbox": {"pred_extreme_points"}, "segm": {"pred_polygons", "pred_masks"}, "pose": {"pred_keypoints"}}


def cfg_of(task: str, *options: Any) -> Any:
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "LSNet"
    node = cfg.MODEL.LSNET
    node.TASK, node.POSE_BOX, node.NUM_CLASSES = task.partition(" ")[0], "keypoints" if "keypoint" in task else "object", 3
    node.IN_FEATURES = list(LEVELS)
    node.HEAD.CHANNELS, node.HEAD.NUM_CONVS, node.HEAD.DEFORMABLE_TOWERS = 32, 1, False
    cfg.merge_from_list(list(options))
    return cfg


def model_of(task: str, *options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(cfg_of(task, *options))


@pytest.mark.parametrize("task", ["bbox", "segm", "pose", "pose by keypoint boxes"])
@pytest.mark.parametrize("objects", [ALL_KINDS, [], ALL_KINDS[3:4], ALL_KINDS[4:]], ids=["all kinds", "none", "one pixel", "no keypoints"])
def test_losses_are_finite(task: str, objects: list[dict], image_file: Path) -> None:
    record = {"file_name": str(image_file), "height": SIZE[0], "width": SIZE[1], "image_id": 1, "annotations": objects}
    batch = [mapper_of(task, augmentations)(record) for augmentations in ([], CROP_AND_MIRROR)]
    losses = model_of(task)(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("task", FIELDS)
@torch.no_grad()
def test_detections_have_the_fields_of_the_task(task: str) -> None:
    model = model_of(task, "MODEL.LSNET.TEST.SCORE_THRESH", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5).eval()
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 120, "width": 160}]
    (output,) = model(inputs)
    found = output["instances"]
    assert len(found) and set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"} | FIELDS[task]
    assert found.image_size == (120, 160)
    multi_scale = MultiScaleDetector(
        model=model,
        min_sizes=[96, 128],
        max_size=200,
        merge_way=NonMaximumSuppression(threshold=0.6),
        fields=standard_fields(range(17)) | model.tta_fields,
    )
    inputs[0]["image"] = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8)
    merged = multi_scale(inputs)[0]["instances"]
    assert set(merged.get_fields()) == set(found.get_fields()) and len(merged)


@pytest.mark.parametrize("task", ["bbox", "segm", "pose"])
@torch.no_grad()
def test_first_stage_starts_from_typical_objects(task: str) -> None:
    """With START_SIZE 3 a cell's box reaches three cells to each side before anything is learned."""
    model = model_of(task, "MODEL.LSNET.HEAD.START_SIZE", 3.0)
    for branch in model.head.init.values():
        torch.nn.init.zeros_(branch.out.weight)
    sizes = [(8, 12), (4, 6), (2, 3)]
    outputs = model.head([torch.randn(1, model.backbone.output_shape()["p3"].channels, *size) for size in sizes])
    priors = model.priors_of(sizes, "cpu")
    boxes = model.decode(outputs, priors).boxes[0]
    reach = 3 * priors.strides[:, None]
    torch.testing.assert_close(boxes, torch.cat([priors.points - reach, priors.points + reach], dim=1))


def test_size_of_typical_objects_is_not_negative() -> None:
    with pytest.raises(ValueError, match="START_SIZE"):
        model_of("bbox", "MODEL.LSNET.HEAD.START_SIZE", -1.0)
