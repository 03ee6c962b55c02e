"""The numbers of a config (Sparse R-CNN and LSNet) reach the object that they are for: set to an unusual value, they are read back.

The tables have all numeric keys of a section; a key that is added without a row fails.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from detkit.config import get_cfg
from tests.toys.detectors import tiny_cfg, tiny_sparse_cfg

from .reading_back import WHOLE, Row, assert_read, numeric_keys, with_values

# Sparse R-CNN -----------------------------------------------------------------------------------------------------------------------------


def dropouts(model: Any) -> list[float]:
    modules = [m for m in model.head.modules() if isinstance(m, nn.Dropout | nn.MultiheadAttention)]
    assert len({type(m) for m in modules}) == 2
    return [m.p if isinstance(m, nn.Dropout) else m.dropout for m in modules]


def num_layers(tower: nn.Module) -> int:
    return sum(isinstance(layer, nn.Linear) for layer in tower.modules())


STATIC = {"HEAD.INTERACTION": "static", "HEAD.SELF_ATTENTION": False, "HEAD.DYNAMIC_CHANNELS": 64}
SOFTMAX = {"HEAD.CLASSIFIER": "softmax", "MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST": "softmax"}

SPARSE_RCNN = {
    "NUM_CLASSES": Row(7, lambda m: [m.criterion.num_classes, *(stage.cls_score.out_features for stage in m.head.stages)]),
    "NUM_PROPOSALS": Row(9, lambda m: [len(m.proposals.boxes), len(m.proposals.features)]),
    "NUM_STAGES": Row(3, lambda m: [len(m.head.stages)]),
    "POOLER.RESOLUTION": Row(
        5, lambda m: [m.head.pooler.output_size[0], math.isqrt(m.head.stages[0].interaction.conv.out.in_features // 32)]
    ),
    "POOLER.SAMPLING_RATIO": Row(3, lambda m: [pooler.sampling_ratio for pooler in m.head.pooler.level_poolers]),
    "HEAD.SELF_ATTENTION": Row(False, lambda m: [stage.attention is not None for stage in m.head.stages]),
    "HEAD.POSITIONAL_ENCODING": Row(True, lambda m: [stage.encoding is not None for stage in m.head.stages]),
    "HEAD.NUM_ATTENTION_HEADS": Row(2, lambda m: [stage.attention.attention.num_heads for stage in m.head.stages]),
    "HEAD.DYNAMIC_CHANNELS": Row(6, lambda m: [stage.interaction.conv.sizes[1] for stage in m.head.stages]),
    "HEAD.STATIC_CHANNELS": Row(24, lambda m: [stage.interaction.out.in_features for stage in m.head.stages], STATIC),
    "HEAD.FFN_CHANNELS": Row(40, lambda m: [stage.ffn.linear1.out_features for stage in m.head.stages]),
    "HEAD.NUM_CLS_LAYERS": Row(2, lambda m: [num_layers(stage.cls_tower) for stage in m.head.stages]),
    "HEAD.NUM_BOX_LAYERS": Row(4, lambda m: [num_layers(stage.box_tower) for stage in m.head.stages]),
    "HEAD.DROPOUT": Row(0.3, dropouts),
    "HEAD.PRIOR_PROB": Row(0.2, lambda m: [p for stage in m.head.stages for p in stage.cls_score.bias.sigmoid().tolist()]),
    "HEAD.BOX_PRED_GAIN": Row(0.0, lambda m: [float(stage.box_pred.weight.abs().max()) for stage in m.head.stages]),
    "BOX_CODER.DELTA_WEIGHTS": Row([1.0, 2.0, 3.0, 4.0], lambda m: [list(m.head.box_coder.weights)]),
    "BOX_CODER.SCALE_CLAMP": Row(2.5, lambda m: [m.head.box_coder.scale_clamp]),
    "BOX_CODER.DELTA_CLAMP_BELOW": Row(True, lambda m: [m.head.box_coder.clamp_below]),
    "DENOISING.COPIES": Row(3, lambda m: [m.denoising.copies]),
    "DENOISING.NOISE": Row(0.25, lambda m: [m.denoising.noise], {"DENOISING.COPIES": 2}),
    "DENOISING.WEIGHT": Row(0.7, lambda m: [m.denoising.weight], {"DENOISING.COPIES": 2}),
    "LOSS.FOCAL_ALPHA": Row(0.4, lambda m: [m.criterion.class_loss.alpha]),
    "LOSS.FOCAL_GAMMA": Row(1.7, lambda m: [m.criterion.class_loss.gamma]),
    "LOSS.NO_OBJECT_WEIGHT": Row(0.3, lambda m: [float(m.criterion.class_loss.weights[-1])], SOFTMAX),
    "LOSS.CLASS_WEIGHT": Row(1.3, lambda m: [m.criterion.class_weight]),
    "LOSS.L1_WEIGHT": Row(1.4, lambda m: [m.criterion.l1_weight]),
    "LOSS.GIOU_WEIGHT": Row(1.6, lambda m: [m.criterion.giou_weight]),
    "TEST.STAGE": Row(0, lambda m: [m.test_stage]),
    "TEST.DETECTIONS_PER_IMAGE": Row(5, lambda m: [m.postprocessor.max_detections]),
}


@pytest.mark.parametrize("key", SPARSE_RCNN)
def test_sparse_rcnn(key: str) -> None:
    row = SPARSE_RCNN[key]
    cfg = with_values(tiny_sparse_cfg(), "MODEL.SPARSE_RCNN", {**row.given, key: row.value})
    assert_read(row, row.read(build_model(cfg)))


def test_dropout_of_attention_over_bins() -> None:
    model = build_model(tiny_sparse_cfg("HEAD.INTERACTION", "attention", "HEAD.DROPOUT", 0.3))
    assert {*dropouts(model)} == {0.3}


def test_no_number_of_sparse_rcnn_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().MODEL.SPARSE_RCNN)) == set(SPARSE_RCNN) - WHOLE


# LSNet ------------------------------------------------------------------------------------------------------------------------------------


def start_of(model: Any) -> float:
    """Half the size in cells of the object that the first stage starts from: the upward component of the top point."""
    return float(torch.nn.functional.softplus(model.head.init["bbox"].out.bias[0]))


SEGM, POSE = {"TASKS": ["segm"]}, {"TASKS": ["pose"]}
CPV = {"CPV.ENABLED": True, "CPV.POOLED_CHANNELS": 32}
LSNET = {
    "NUM_CLASSES": Row(7, lambda m: [m.num_classes, m.criterion.num_classes, m.head.cls.out.out_channels]),
    "CONTOUR_LANDMARKS": Row(18, lambda m: [m.task.landmarks.num_landmarks], SEGM),
    "NUM_KEYPOINTS": Row(5, lambda m: [m.task.landmarks.num_landmarks], POSE),
    "GRID_OFFSET": Row(0.25, lambda m: [m.prior_generator.offset]),
    "IGNORE_PADDING": Row(False, lambda m: [m.ignore_padding, m.pipeline.ignore_padding]),
    "HEAD.CHANNELS": Row(64, lambda m: [m.head.cls_tower[0].out_channels, m.head.cls.out.in_channels, m.head.init["bbox"].out.in_channels]),
    "HEAD.NUM_CONVS": Row(3, lambda m: [len(m.head.cls_tower), len(m.head.towers["bbox"])]),
    "HEAD.DEFORMABLE_TOWERS": Row(True, lambda m: ["Deform" in type(conv).__name__ for conv in m.head.cls_tower], {"HEAD.NUM_CONVS": 2}),
    "HEAD.STAGES": Row(1, lambda m: [2 if m.head.refine else 1, 1 if m.refine_assigner is None else 2], {"HEAD.FEATURES": "point"}),
    "HEAD.GRADIENT_SHARE": Row(0.35, lambda m: [m.head.gradient_share]),
    "HEAD.PRIOR_PROB": Row(0.2, lambda m: m.head.cls.out.bias.sigmoid().tolist()),
    "HEAD.START_SIZE": Row(3.5, lambda m: [start_of(m)]),
    "CPV.ENABLED": Row(True, lambda m: [m.corner_criterion is not None, m.head.verification is not None], {"CPV.POOLED_CHANNELS": 32}),
    "CPV.POOLED_CHANNELS": Row(96, lambda m: [pool.vertical.out_channels for pool in m.head.verification.pools.values()], CPV),
    "CPV.NUM_CONVS": Row(2, lambda m: [len(m.head.verification.shared)], CPV),
    "LOSS.ALPHA": Row(0.3, lambda m: [m.criterion.vector_loss.alpha]),
    "LOSS.SMOOTH_L1_BETA": Row(0.4, lambda m: [m.criterion.vector_loss.beta], {"LOSS.VECTOR": "smooth_l1"}),
    "LOSS.INIT_WEIGHT": Row(1.3, lambda m: [m.criterion.init_weight]),
    "LOSS.REFINE_WEIGHT": Row(1.4, lambda m: [m.criterion.refine_weight]),
    "LOSS.BOX_FACTOR": Row(0.6, lambda m: [m.criterion.box_factor], POSE),
    "LOSS.FOCAL_ALPHA": Row(0.4, lambda m: [m.criterion.focal_alpha]),
    "LOSS.FOCAL_GAMMA": Row(1.7, lambda m: [m.criterion.focal_gamma]),
    "TEST.SCORE_THRESH": Row(0.21, lambda m: [m.postprocessor.score_thresh]),
    "TEST.TOPK_PER_LEVEL": Row(33, lambda m: [m.postprocessor.topk_per_level]),
    "TEST.NMS_THRESH": Row(0.37, lambda m: [m.postprocessor.nms_thresh]),
    "TEST.MIN_AREA": Row(99.0, lambda m: [m.min_area]),
    "TEST.DETECTIONS_PER_IMAGE": Row(17, lambda m: [m.postprocessor.max_detections]),
}


@pytest.mark.parametrize("key", LSNET)
def test_lsnet(key: str) -> None:
    row, cfg = LSNET[key], tiny_cfg("LSNet")
    cfg.MODEL.LSNET.HEAD.DEFORMABLE_TOWERS = False
    assert_read(row, row.read(build_model(with_values(cfg, "MODEL.LSNET", {**row.given, key: row.value}))))


@pytest.mark.parametrize("vector", ["cross_iou", "smooth_l1"])
def test_every_loss_of_vectors_has_its_alpha(vector: str) -> None:
    cfg = with_values(tiny_cfg("LSNet"), "MODEL.LSNET", {"LOSS.VECTOR": vector, "LOSS.ALPHA": 0.3})
    assert build_model(cfg).criterion.vector_loss.alpha == 0.3


def test_no_number_of_lsnet_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().MODEL.LSNET)) == set(LSNET) - WHOLE
