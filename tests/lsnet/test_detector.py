"""The variants of the detector, what it refuses, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from lsnet.outlines import box_side_midpoints

from .test_whole import model_of

VARIANTS = {
    "pyramid": ("HEAD.LEVEL_SCALES", "ideal"),
    "landmark": ("HEAD.FEATURES", "landmark"),
    "point": ("HEAD.FEATURES", "point"),
    "learned, rectangle, giou": ("HEAD.FEATURES", "learned", "BOX_STYLE", "rectangle", "LOSS.VECTOR", "giou"),
    "one stage": ("HEAD.STAGES", 1, "HEAD.FEATURES", "point"),
    "one stage, rectangle, smooth L1": ("HEAD.STAGES", 1, "BOX_STYLE", "rectangle", "LOSS.VECTOR", "smooth_l1"),
    "equation 1": ("LOSS.CROSS_IOU", "paper"),
    "corners": ("CPV.ENABLED", True, "CPV.POOLED_CHANNELS", 32),
    "corners, no towers": ("CPV.ENABLED", True, "HEAD.NUM_CONVS", 0, "HEAD.CHANNELS", 64),
    "deformable towers": ("HEAD.DEFORMABLE_TOWERS", True),
}


def options(*pairs: Any) -> list[Any]:
    return [f"MODEL.LSNET.{value}" if place % 2 == 0 else value for place, value in enumerate(pairs)]


def batch_of(image_size: tuple[int, int] = (96, 128)) -> list[dict[str, Any]]:
    """Two images of colored boxes on gray, with the middles of their sides as extreme points."""
    generator = torch.Generator().manual_seed(0)
    images = [[([10, 12, 50, 60], 0), ([70, 20, 118, 52], 1), ([60, 60, 84, 90], 2)], [([4, 4, 90, 80], 2), ([96, 40, 124, 92], 0)]]
    batch = []
    for objects in images:
        image = torch.randint(90, 130, (3, *image_size), generator=generator, dtype=torch.uint8)
        for (x0, y0, x1, y1), label in objects:
            image[:, y0:y1, x0:x1] = 40
            image[label, y0:y1, x0:x1] = 220
        boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32)
        instances = Instances(image_size)
        instances.gt_boxes, instances.gt_classes = Boxes(boxes), torch.tensor([label for _, label in objects])
        middles = torch.from_numpy(box_side_midpoints(boxes.numpy())).float()
        instances.gt_landmarks = torch.cat([middles, torch.ones_like(middles[..., :1])], dim=-1)
        batch.append({"image": image, "instances": instances, "height": image_size[0], "width": image_size[1]})
    return batch


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_reach_every_weight_and_detect(variant: str) -> None:
    model = model_of("bbox", *options(*VARIANTS[variant]))
    losses = model.train()(batch_of())
    sum(losses.values()).backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()]
    assert not missing and all(loss.isfinite() for loss in losses.values())
    stages = {"loss_bbox_init"} if "one stage" in variant else {"loss_bbox_init", "loss_bbox_refine"}
    corners = {"loss_heatmap", "loss_offset", "loss_sem"} if "corners" in variant else set()
    assert set(losses) == {"loss_cls"} | stages | corners
    model.postprocessor.score_thresh = 0.0
    with torch.no_grad():
        found = model.eval()(batch_of())[0]["instances"]
    assert len(found) and found.pred_boxes.tensor.isfinite().all()


@torch.no_grad()
def test_padding_takes_no_part() -> None:
    """Cells beyond an image's own area take no part."""
    model = model_of("bbox")
    small, large = batch_of()[0], batch_of((128, 192))[1]
    images = model.preprocess_image([small, large])
    outputs = model.predict(images)
    predictions, priors = model.pipeline.decode(outputs)
    gt = model.ground_truth([small["instances"], large["instances"]])
    assignment = model.pipeline.assign(priors, gt, predictions, images.image_sizes)
    inside = (priors.points < torch.tensor([128.0, 96.0])).all(1)
    assert torch.equal(assignment.ignore[0], ~inside) and not assignment.ignore[1].any()
    assert not (assignment.gt_index[0][~inside] >= 0).any()


def test_learns_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    model = model_of("bbox", *options("HEAD.LEVEL_SCALES", "ideal")).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batch = batch_of()
    for _ in range(120):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(batch)
    for output, inputs in zip(outputs, batch, strict=True):
        found, gt = output["instances"], inputs["instances"]
        best = found[: len(gt)]
        overlap = pairwise_iou(gt.gt_boxes, best.pred_boxes) * (gt.gt_classes[:, None] == best.pred_classes)
        assert (overlap.amax(1) > 0.75).all(), overlap


@pytest.mark.parametrize("name", ["CentroidAssigner", "SimOTAAssigner", "OTAAssigner", "HungarianAssigner"])
def test_other_assigners_of_points_train(name: str) -> None:
    model = model_of("bbox", *options("INIT_ASSIGNER", name, "ASSIGNER", name)).train()
    losses = model(batch_of())
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_bbox_init"] > 0 and losses["loss_bbox_refine"] > 0


def test_data_without_landmarks_are_named() -> None:
    batch = batch_of()
    for inputs in batch:
        inputs["instances"].remove("gt_landmarks")
    with pytest.raises(ValueError, match=r"INPUT\.MAPPER.*LandmarkMapper"):
        model_of("bbox").train()(batch)
