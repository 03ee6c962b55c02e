"""From annotations through the network to what evaluators take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor

from detkit.tta import build_multi_scale_detector
from tests.toys.detectors import LEVELS, tiny_cfg
from tests.toys.outlines import SIZE

from .test_mapper import ALL_KINDS, CROP_AND_MIRROR, mapper_of

FIELDS = {"bbox": {"pred_extreme_points"}, "segm": {"pred_polygons", "pred_masks"}, "pose": {"pred_keypoints"}}
FIELDS["bbox+pose+segm"] = {*FIELDS["bbox"], *FIELDS["segm"], *FIELDS["pose"]}
#: knows COCO's 17 keypoints, and which of them change places in a mirrored image
PERSONS = "keypoints_coco_2017_val"
#: detections of any score, five of an image, at two sizes
MULTI_SCALE = ("MODEL.LSNET.TEST.SCORE_THRESH", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5)
MULTI_SCALE += ("TEST.AUG.MIN_SIZES", (96, 128), "TEST.AUG.MAX_SIZE", 200)


def cfg_of(task: str, *options: Any) -> Any:
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "LSNet"
    node = cfg.MODEL.LSNET
    node.TASKS, node.POSE_BOX, node.NUM_CLASSES = task.partition(" ")[0].split("+"), "keypoints" if "keypoint" in task else "object", 3
    node.IN_FEATURES = list(LEVELS)
    node.HEAD.CHANNELS, node.HEAD.NUM_CONVS, node.HEAD.DEFORMABLE_TOWERS = 32, 1, False
    cfg.merge_from_list(list(options))
    return cfg


def model_of(task: str, *options: Any) -> torch.nn.Module:
    return seeded(cfg_of(task, *options))


def seeded(cfg: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("task", ["bbox", "segm", "pose", "pose by keypoint boxes", "bbox+pose+segm"])
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
    cfg = cfg_of(task, *MULTI_SCALE)
    model = seeded(cfg).eval()
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 120, "width": 160}]
    (output,) = model(inputs)
    found = output["instances"]
    assert len(found) and set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"} | FIELDS[task]
    assert found.image_size == (120, 160)
    inputs[0]["image"] = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8)
    merged = build_multi_scale_detector(cfg, model, PERSONS)(inputs)[0]["instances"]
    assert set(merged.get_fields()) == set(found.get_fields()) and len(merged)


def mirrored_pose(keypoints: Tensor, width: int) -> Tensor:
    """What the keypoints (N, 17, 3) of a mirrored image are in the image: by their names, so that the left wrist was called the right."""
    names = MetadataCatalog.get(PERSONS).keypoint_names
    other_side = {"left": "right", "right": "left"}
    sources = [names.index("_".join(other_side.get(part, part) for part in name.split("_"))) for name in names]
    x, y, score = keypoints[:, sources].unbind(-1)
    return torch.stack([width - x, y, score], dim=-1)


@torch.no_grad()
def test_poses_of_the_mirrored_image_are_turned_back() -> None:
    cfg = cfg_of("pose", *MULTI_SCALE)
    model = seeded(cfg).eval()
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    inputs, mirrored_inputs = ({"image": each, "height": 96, "width": 128} for each in (image, image.flip(-1)))
    expected = [output["instances"] for output in model([inputs, mirrored_inputs])]
    plain, turned = list(build_multi_scale_detector(cfg, model, PERSONS).views(inputs))[:2]
    assert not plain.mirrored and turned.mirrored and len(expected[1]) > 0
    torch.testing.assert_close(plain.detections.pred_keypoints, expected[0].pred_keypoints)
    torch.testing.assert_close(turned.detections.pred_keypoints, mirrored_pose(expected[1].pred_keypoints, 128))


@pytest.mark.parametrize("merge", ["nms", "vote", "soft_vote"])
@torch.no_grad()
def test_keypoints_carry_the_score_of_the_merged_detection(merge: str) -> None:
    """Boxes of six cells overlap, so that detections of different scores are merged."""
    cfg = cfg_of("pose", *MULTI_SCALE, "TEST.AUG.MERGE", merge, "TEST.AUG.MERGE_THRESH", 0.1)
    if merge == "soft_vote":
        cfg.TEST.AUG.SOFT_VOTE_MIN_SCORE = 0.0
    cfg.MODEL.LSNET.HEAD.START_SIZE = 3.0
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 96, "width": 128}]
    detector = build_multi_scale_detector(cfg, seeded(cfg).eval(), PERSONS)
    merged = detector(inputs)[0]["instances"]
    assert len(merged)
    torch.testing.assert_close(merged.pred_keypoints[..., 2], merged.scores[:, None].expand(-1, 17), rtol=0, atol=0)


@pytest.mark.parametrize("task", ["bbox", "segm", "pose", "bbox+pose+segm", "pose+segm"])
@torch.no_grad()
def test_first_stage_starts_from_typical_objects(task: str) -> None:
    """With START_SIZE 3 a cell's box reaches three cells to each side before anything is learned."""
    model = model_of(task, "MODEL.LSNET.HEAD.START_SIZE", 3.0)
    for branch in model.head.init.values():
        torch.nn.init.zeros_(branch.out.weight)
    sizes = [(8, 12), (4, 6), (2, 3)]
    outputs = model.head([torch.randn(1, model.backbone.output_shape()["p3"].channels, *size) for size in sizes])
    predictions, priors = model.pipeline.decode(outputs)
    boxes = predictions.boxes[0]
    reach = 3 * priors.strides[:, None]
    torch.testing.assert_close(boxes, torch.cat([priors.points - reach, priors.points + reach], dim=1))
