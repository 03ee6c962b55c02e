"""RetinaNet as ATSS's detector with other parts, beside Detectron2's own with the same weights."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from detkit.dense import DenseDetector
from tests.toys.detectors import LEVELS, random_inputs, tiny_cfg

SCALES, RATIOS = [4.0, 5.039684, 6.349604], [0.5, 1.0, 2.0]


def retinanet_cfg() -> CfgNode:
    """What ``configs/atss/retinanet_a9_R_50_FPN_1x.yaml`` says, in Detectron2's conventions."""
    cfg = tiny_cfg("ATSS")
    node = cfg.MODEL.ATSS
    node.ASSIGNER = "IoUAssigner"
    node.ANCHORS.SCALES, node.ANCHORS.RATIOS, node.ANCHORS.OFFSET = SCALES, RATIOS, 0.0
    node.HEAD.NORM, node.HEAD.QUALITY, node.HEAD.SCALES = "", "none", False
    node.BOX_CODER.DELTA_WEIGHTS = [1.0] * 4
    node.LOSS.BOX, node.LOSS.SMOOTH_L1_BETA, node.LOSS.BOX_WEIGHTING = "smooth_l1", 0.1, "uniform"
    node.LOSS.BOX_WEIGHT = 1.0
    node.TEST.CLIP_BEFORE_NMS, node.TEST.SCORE_THRESH = False, 0.012
    return cfg


def detectron2s(ours: DenseDetector) -> RetinaNet:
    """Detectron2's RetinaNet with our backbone and our weights."""
    sizes = [[scale * stride for scale in SCALES] for stride in ours.prior_generator.strides]
    head = RetinaNetHead(
        input_shape=list(ours.backbone.output_shape().values()), num_classes=3, num_anchors=9, conv_dims=[32], prior_prob=0.01
    )
    theirs = RetinaNet(
        backbone=ours.backbone,
        head=head,
        head_in_features=list(LEVELS),
        anchor_generator=DefaultAnchorGenerator(
            sizes=sizes, aspect_ratios=[RATIOS], strides=list(ours.prior_generator.strides), offset=0.0
        ),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        smooth_l1_beta=0.1,
        test_score_thresh=0.012,
        test_topk_candidates=1000,
        test_nms_thresh=0.6,
        pixel_mean=[128.0] * 3,
        pixel_std=[64.0] * 3,
    )
    for their_name, our_name in (("cls_subnet", "cls_tower"), ("bbox_subnet", "box_tower"), ("cls_score", "cls_score")):
        copy(getattr(ours.head, our_name), getattr(head, their_name))
    copy(ours.head.box_pred, head.bbox_pred)
    return theirs


def copy(source: torch.nn.Module, target: torch.nn.Module) -> None:
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


@pytest.fixture
def models() -> tuple[DenseDetector, RetinaNet]:
    torch.manual_seed(0)
    ours = build_model(retinanet_cfg())
    for layer in (ours.head.cls_score, ours.head.box_pred):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return ours, detectron2s(ours)


def test_losses_and_gradients(models: tuple[DenseDetector, RetinaNet]) -> None:
    ours, theirs = models
    inputs = random_inputs(2)
    with EventStorage():
        our_losses, their_losses = ours.train()(inputs), theirs.train()(inputs)
    average = theirs.loss_normalizer  # a moving average of the number of positives, which starts at 100
    positives = (average - 0.9 * 100) / 0.1
    assert positives > 10
    assert_close(our_losses["loss_cls"] * positives, their_losses["loss_cls"] * average, rtol=1e-4, atol=1e-4)
    assert_close(our_losses["loss_box"] * positives, their_losses["loss_box_reg"] * average, rtol=1e-4, atol=1e-4)
    ours.zero_grad()
    (sum(our_losses.values()) * positives).backward()
    (sum(their_losses.values()) * average).backward()
    assert_close(ours.head.cls_score.weight.grad, theirs.head.cls_score.weight.grad, rtol=1e-3, atol=1e-3)
    assert_close(ours.head.box_pred.weight.grad, theirs.head.bbox_pred.weight.grad, rtol=1e-3, atol=1e-3)


def test_detections(models: tuple[DenseDetector, RetinaNet]) -> None:
    ours, theirs = models
    inputs = random_inputs(1)
    with torch.no_grad():
        found, expected = (model.eval()(inputs)[0]["instances"] for model in (ours, theirs))
    assert len(found) == len(expected) > 20
    assert_close(found.scores, expected.scores)
    assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    assert_close(found.pred_classes, expected.pred_classes)
