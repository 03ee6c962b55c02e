"""Every number of a config reaches the object that it is for: set to an unusual value, it is read back there.

The tables have all numeric keys of a section; a key that is added without a row fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detkit.assigners import ASSIGNER_REGISTRY, Assigner, build_assigner
from detkit.config import ConfigError, get_cfg
from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.config.limits import allowed_values
from detkit.engine import Trainer
from detkit.tta import SoftVoting, build_multi_scale_detector
from tests.toys.datasets import make_toy_data, register_toy_data, toy_cfg
from tests.toys.detectors import tiny_cfg, tiny_sparse_cfg


class Row(NamedTuple):
    """How a key is read back.

    Attributes:
        value: an unusual one.
        read: gives the values found in the built object; all have to be the one that was set.
        given: other keys that the key needs to be read at all, by name below the same section, or whole.
    """

    value: Any
    read: Callable[[Any], Sequence[Any]]
    given: Mapping[str, Any] = {}


def numeric_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Dotted keys of the numbers, lists of numbers and switches of a section."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from numeric_keys(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float) or (isinstance(value, list | tuple) and value and not isinstance(value[0], str)):
            yield prefix + key


def with_values(cfg: CfgNode, section: str, values: Mapping[str, Any]) -> CfgNode:
    """The config with keys of a section, or whole keys, set."""
    whole = ("MODEL.", "SOLVER.", "TEST.DETECTIONS", "INPUT.")
    cfg.merge_from_list([part for key, value in values.items() for part in (key if key.startswith(whole) else f"{section}.{key}", value)])
    return cfg


def assert_read(row: Row, found: Sequence[Any]) -> None:
    assert len(found) > 0
    for value in found:
        assert type(value) is not bool or type(row.value) is bool
        assert value == pytest.approx(row.value, rel=1e-5)


# dense detectors --------------------------------------------------------------------------------------------------------------------------


def side(model: Any, axis: int) -> float:
    anchor = model.prior_generator.cell_anchors[0][0]
    return float(anchor[axis + 2] - anchor[axis]) / model.prior_generator.strides[0]


def ratio_of(model: Any, anchor: int) -> float:
    """Height by width of an anchor."""
    x0, y0, x1, y1 = model.prior_generator.cell_anchors[0][anchor].tolist()
    return round((y1 - y0) / (x1 - x0), 3)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def has_bias(model: Any) -> list[bool]:
    return [conv.bias is not None for conv in (model.head.cls_tower[0], model.head.box_tower[0])]


TOOD = {"HEAD.NAME": "TOODHead", "HEAD.QUALITY": "none", "BOX_CODER.NAME": "linear", "HEAD.NUM_CONVS": 2}
DELTA = {"BOX_CODER.NAME": "delta"}
ANCHORS = DELTA | {"ANCHORS.SCALES": [2.3, 4.1], "ANCHORS.RATIOS": [1.0, 4.0]}

HEAD = {
    "ANCHORS.OFFSET": Row(0.25, lambda m: [m.prior_generator.offset]),
    "ANCHORS.SCALES": Row([3.0], lambda m: [[side(m, 0)], [side(m, 1)]]),
    "ANCHORS.RATIOS": Row([4.0], lambda m: [[side(m, 1) / side(m, 0)]]),
    "ANCHORS.RATIOS_FIRST": Row(True, lambda m: [ratio_of(m, 0) == ratio_of(m, 1)], ANCHORS),
    "ANCHORS.WHOLE_PIXELS": Row(True, lambda m: [bool((a == a.round()).all()) for a in m.prior_generator.cell_anchors], ANCHORS),
    "HEAD.NUM_CONVS": Row(3, lambda m: [len(m.head.cls_tower), len(m.head.box_tower)]),
    "HEAD.NUM_SHARED_CONVS": Row(3, lambda m: [len(m.head.shared_tower)]),
    "HEAD.CHANNELS": Row(64, lambda m: [conv.out_channels for conv in convolutions(m.head.cls_tower) + convolutions(m.head.box_tower)]),
    "HEAD.TOWER_BIAS": Row(False, has_bias),
    "HEAD.DCN_ON_LAST_CONV": Row(True, lambda m: ["Deform" in type(m.head.cls_tower[-1]).__name__]),
    "HEAD.SCALES": Row(False, lambda m: [bool(list(m.head.scales.parameters()))]),
    "HEAD.PRIOR_PROB": Row(0.2, lambda m: m.head.cls_score.bias.sigmoid().tolist()),
    "HEAD.BOX_BIAS": Row(1.5, lambda m: m.head.box_pred.bias.tolist()),
    "HEAD.DCN_ON_FIRST_CONVS": Row(1, lambda m: [sum("Deform" in type(conv).__name__ for conv in m.head.tower)], TOOD),
    "BOX_CODER.DELTA_WEIGHTS": Row([1.0, 2.0, 3.0, 4.0], lambda m: [list(m.box_coder.weights)], DELTA),
    "BOX_CODER.DELTA_CLAMP_BELOW": Row(True, lambda m: [m.box_coder.clamp_below], DELTA),
}
LOSS = {
    "LOSS.FOCAL_ALPHA": Row(0.4, lambda m: [m.criterion.focal_alpha]),
    "LOSS.FOCAL_GAMMA": Row(1.7, lambda m: [m.criterion.focal_gamma]),
    "LOSS.CLS_WEIGHT": Row(1.3, lambda m: [m.criterion.cls_weight]),
    "LOSS.BOX_WEIGHT": Row(1.4, lambda m: [m.criterion.box_weight]),
    "LOSS.QUALITY_WEIGHT": Row(1.6, lambda m: [m.criterion.quality_weight]),
    "LOSS.IOU_PLUS_ONE": Row(True, lambda m: [bool(m.criterion.box_loss.keywords["loss"].keywords["offset"])]),
    "LOSS.SMOOTH_L1_BETA": Row(0.3, lambda m: [m.criterion.box_loss.keywords["loss"].keywords["beta"]], {"LOSS.BOX": "smooth_l1"} | DELTA),
    "LOSS.MIN_BOX_NORMALIZER": Row(0.5, lambda m: [m.criterion.normalizer.min_box]),
}
DETECTOR = {
    "NUM_CLASSES": Row(7, lambda m: [m.num_classes, m.criterion.num_classes, m.head.cls_score.out_channels]),
    "PLUS_ONE": Row(True, lambda m: [bool(m.prior_generator.plus_one), bool(m.postprocessor.plus_one)]),
    "IGNORE_PADDING": Row(True, lambda m: [m.ignore_padding, m.pipeline.ignore_padding]),
    "TEST.SCORE_THRESH": Row(0.21, lambda m: [m.postprocessor.score_thresh]),
    "TEST.TOPK_PER_LEVEL": Row(33, lambda m: [m.postprocessor.topk_per_level]),
    "TEST.NMS_THRESH": Row(0.37, lambda m: [m.postprocessor.nms_thresh]),
    "TEST.CLIP_BEFORE_NMS": Row(False, lambda m: [m.postprocessor.clip]),
    "TEST.DROP_EMPTY": Row(True, lambda m: [m.postprocessor.drop_empty]),
    "TEST.DETECTIONS_PER_IMAGE": Row(17, lambda m: [m.postprocessor.max_detections]),
}
DENSE = HEAD | LOSS | DETECTOR
#: the whole key stands for all methods
WHOLE = {"TEST.DETECTIONS_PER_IMAGE"}


@pytest.mark.parametrize("key", DENSE)
@pytest.mark.parametrize("method", ["FCOS", "ATSS", "DW"])
def test_dense_detectors(method: str, key: str) -> None:
    row = DENSE[key]
    cfg = with_values(tiny_cfg(method), f"MODEL.{method}", {**row.given, key: row.value})
    if method == "DW" and key in LOSS:
        with pytest.raises(ConfigError, match=f"MODEL.DW.{key}"):  # weights bring their factors along
            build_model(cfg)
        return
    assert_read(row, row.read(build_model(cfg)))


@pytest.mark.parametrize("method", ["FCOS", "ATSS", "DW"])
def test_no_number_of_a_dense_detector_is_left_out(method: str) -> None:
    assert set(numeric_keys(get_cfg().MODEL[method])) == set(DENSE) - WHOLE


@pytest.mark.parametrize("normalizer", ["positives", "positives_per_image", "moving_fg", "all"])
def test_every_normalizer_has_its_lower_bound(normalizer: str) -> None:
    cfg = with_values(tiny_cfg(), "MODEL.FCOS", {"LOSS.NORMALIZER": normalizer, "LOSS.MIN_BOX_NORMALIZER": 0.5})
    assert build_model(cfg).criterion.normalizer.min_box == 0.5


OTHER_HEADS = {
    "TOODHead": {
        "ANCHORS.OFFSET": Row(0.25, lambda m: [m.head.grid_offset]),
        "ANCHORS.SCALES": Row([3.0], lambda m: [[float(m.head.cell_anchors[0][0, 2] - m.head.cell_anchors[0][0, 0])]]),
        "HEAD.NUM_CONVS": Row(3, lambda m: [len(m.head.tower)]),
        "HEAD.CHANNELS": Row(64, lambda m: [m.head.cls_score.in_channels, m.head.tower[0].out_channels]),
        "HEAD.PRIOR_PROB": Row(0.2, lambda m: [*m.head.cls_score.bias.sigmoid().tolist(), float(m.head.alignment[-1].bias.sigmoid())]),
    },
    "RefiningHead": {
        "ANCHORS.OFFSET": Row(0.25, lambda m: [m.head.grid_offset]),
        "HEAD.PRIOR_PROB": Row(0.2, lambda m: m.head.cls_score.bias.sigmoid().tolist()),
        "HEAD.BOX_BIAS": Row(1.5, lambda m: m.head.box_pred.bias.tolist()),
    },
}


@pytest.mark.parametrize(("head", "key"), [(head, key) for head, rows in OTHER_HEADS.items() for key in rows])
def test_other_heads(head: str, key: str) -> None:
    row = OTHER_HEADS[head][key]
    given = TOOD if head == "TOODHead" else {"HEAD.NAME": head, "BOX_CODER.NAME": "relu"}
    model = build_model(with_values(tiny_cfg("DW"), "MODEL.DW", {**given, key: row.value}))
    assert type(model.head).__name__ == head
    assert_read(row, row.read(model))


RPN = {
    "SIZE_OF_INTEREST": Row(5.0, lambda m: [m.assigner.upper_bounds[0] / 8, m.assigner.upper_bounds[1] / 16]),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": Row(77, lambda m: [m.pre_nms_topk[True]]),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": Row(78, lambda m: [m.pre_nms_topk[False]]),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": Row(55, lambda m: [m.post_nms_topk[True]]),
    "MODEL.RPN.POST_NMS_TOPK_TEST": Row(56, lambda m: [m.post_nms_topk[False]]),
    "MODEL.RPN.NMS_THRESH": Row(0.37, lambda m: [m.nms_thresh]),
    "MODEL.RPN.LOSS_WEIGHT": Row(1.2, lambda m: [m.loss_weight]),
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": Row(1.3, lambda m: [m.box_loss_weight]),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": Row(3, lambda m: [m.min_box_size]),
}


@pytest.mark.parametrize("key", HEAD | LOSS | RPN)
def test_fcos_as_proposal_network(key: str) -> None:
    row = (HEAD | LOSS | RPN)[key]
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "ProposalNetwork", "FCOSRPN"
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.FCOS_RPN.HEAD.CHANNELS, cfg.MODEL.FCOS_RPN.HEAD.NUM_CONVS = 32, 1
    model = build_model(with_values(cfg, "MODEL.FCOS_RPN", {**row.given, key: row.value}))
    assert_read(row, row.read(model.proposal_generator))


def test_no_number_of_the_proposal_network_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().MODEL.FCOS_RPN)) == {key for key in HEAD | LOSS | RPN if not key.startswith("MODEL.")}


# assigners --------------------------------------------------------------------------------------------------------------------------------

ASSIGNERS = {kind.config_section: name for name, kind in ASSIGNER_REGISTRY if kind.config_section}
#: where a key is read back that is not an attribute of its own name
ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "FCOS.SIZES_OF_INTEREST": lambda a: a.upper_bounds[:-1],
    "IOU.THRESHOLDS": lambda a: [a.negative_below, a.positive_from],
    "HUNGARIAN.FOCAL_ALPHA": lambda a: a.class_cost.keywords["alpha"],
    "HUNGARIAN.FOCAL_GAMMA": lambda a: a.class_cost.keywords["gamma"],
    "HUNGARIAN.EPS": lambda a: a.class_cost.keywords["eps"],
    "DW.PRIOR_SIGMA": lambda a: float(a.center_prior.sigma.unique()),
    "FOVEABOX.SIZES": lambda a: list(a.sizes),
}


def unusual(value: Any) -> Any:
    if isinstance(value, list):
        return [unusual(each) for each in value]
    return (not value) if isinstance(value, bool) else value + 3 if isinstance(value, int) else value * 0.83 + 0.0137


@pytest.mark.parametrize("key", [f"{section}.{key}" for section in ASSIGNERS for key in numeric_keys(get_cfg().MODEL.ASSIGNERS[section])])
def test_assigners(key: str) -> None:
    section, name = key.split(".")
    cfg = get_cfg()
    value = cfg.MODEL.ASSIGNERS[section][name] = unusual(cfg.MODEL.ASSIGNERS[section][name])
    limit = ASSIGNER_LIMITS[section].get(name)
    assert limit is None or allowed_values(value, limit) is None, "the test's value is not allowed"
    assigner: Assigner = build_assigner(ASSIGNERS[section], cfg, key="MODEL.FCOS.ASSIGNER", num_classes=3)
    found = ELSEWHERE.get(key, lambda a: getattr(a, name.lower()))(assigner)
    assert found == pytest.approx(value, rel=1e-5)


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


SEGM, POSE = {"TASK": "segm"}, {"TASK": "pose"}
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


# training ---------------------------------------------------------------------------------------------------------------------------------


def learning_rates(trainer: Trainer) -> list[float]:
    """The factor on BASE_LR in each of 10 iterations."""
    rates = []
    for _ in range(10):
        rates.append(trainer.optimizer.param_groups[0]["lr"] / trainer.cfg.SOLVER.BASE_LR)
        trainer.optimizer.step()
        trainer.scheduler.step()
    return rates


def group_of(trainer: Trainer, suffix: str) -> dict[str, Any]:
    """The parameter group that holds the first parameter whose name ends so."""
    wanted = next(parameter for name, parameter in trainer.model.named_parameters() if name.endswith(suffix))
    (found,) = [group for group in trainer.optimizer.param_groups if any(parameter is wanted for parameter in group["params"])]
    return found


def hook_named(trainer: Trainer, name: str) -> Any:
    (found,) = [hook for hook in trainer._hooks if type(hook).__name__ == name]
    return found


def clipped(trainer: Trainer) -> Any:
    """A gradient (30, 40) after clipping."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    trainer.training_step._clip([parameter])
    return parameter.grad


CLIP = {"CLIP_GRADIENTS.ENABLED": True}
LONG = {"MAX_ITER": 20, "WARMUP_ITERS": 0, "STEPS": (15,)}
STEPPED = {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_ITERS": 0, "MAX_ITER": 12, "GAMMA": 0.1}
SOLVER = {
    "BASE_LR": Row(0.037, lambda t: [group_of(t, "cls_score.weight")["initial_lr"]]),
    "BASE_LR_END": Row(
        0.002, lambda t: [0.01 * learning_rates(t)[9]], {"LR_SCHEDULER_NAME": "WarmupCosineLR", "MAX_ITER": 9, "BASE_LR": 0.01}
    ),
    "MOMENTUM": Row(0.55, lambda t: [group["momentum"] for group in t.optimizer.param_groups]),
    "NESTEROV": Row(True, lambda t: [group["nesterov"] for group in t.optimizer.param_groups]),
    "WEIGHT_DECAY": Row(0.003, lambda t: [group_of(t, "cls_score.weight")["weight_decay"]]),
    "WEIGHT_DECAY_NORM": Row(0.004, lambda t: [group_of(t, "cls_tower.0.norm.weight")["weight_decay"]]),
    "BIAS_LR_FACTOR": Row(1.9, lambda t: [group_of(t, "cls_score.bias")["initial_lr"] / t.cfg.SOLVER.BASE_LR]),
    "BIAS_LR_FACTOR_OF_NORMS": Row(
        False,
        lambda t: [group_of(t, "cls_tower.0.norm.bias")["initial_lr"] != pytest.approx(t.cfg.SOLVER.BASE_LR)],
        {"BIAS_LR_FACTOR": 1.9},
    ),
    "GAMMA": Row(0.3, lambda t: [learning_rates(t)[7]], LONG | {"STEPS": (6,)}),
    "STEPS": Row((5,), lambda t: [(learning_rates(t).index(pytest.approx(0.1)),)], LONG),
    "MAX_ITER": Row(11, lambda t: [t.max_iter]),
    "WARMUP_FACTOR": Row(0.2, lambda t: [learning_rates(t)[0]], LONG | {"WARMUP_ITERS": 4}),
    "WARMUP_ITERS": Row(4, lambda t: [learning_rates(t).index(pytest.approx(1.0))], LONG | {"WARMUP_FACTOR": 0.1}),
    "IMS_PER_BATCH": Row(2, lambda t: [len(next(iter(t.data_loader)))]),
    "ACCUMULATE": Row(2, lambda t: [t.training_step._parts, 4 // len(next(iter(t.data_loader)))]),
    "REFERENCE_BATCH_SIZE": Row(8, lambda t: [4 * 0.01 / t.cfg.SOLVER.BASE_LR]),
    "CHECKPOINT_PERIOD": Row(5, lambda t: [hook_named(t, "PeriodicCheckpoint")._period]),
    "CHECKPOINT_KEEP": Row(2, lambda t: [t.checkpoints._keep]),
    "EMA.ENABLED": Row(True, lambda t: [t.ema is not None]),
    "EMA.DECAY": Row(0.83, lambda t: [t.ema._decay], {"EMA.ENABLED": True}),
    "AMP.ENABLED": Row(True, lambda t: [t.training_step._amp_dtype is not None, t.training_step.grad_scaler.is_enabled()]),
    "CLIP_GRADIENTS.ENABLED": Row(True, lambda t: [t.training_step._clip is not None]),
    "CLIP_GRADIENTS.CLIP_VALUE": Row(5.0, lambda t: [float(clipped(t).norm())], CLIP | {"CLIP_GRADIENTS.CLIP_TYPE": "norm"}),
    "CLIP_GRADIENTS.NORM_TYPE": Row(1.0, lambda t: [float(clipped(t).norm(1))], CLIP | {"CLIP_GRADIENTS.CLIP_TYPE": "full_model"}),
    "NUM_DECAYS": Row(2, lambda t: [len({round(rate, 6) for rate in learning_rates(t)}) - 1], STEPPED),
    # the decay at iteration 6 of 20 then comes later, by the length of the warm-up
    "RESCALE_INTERVAL": Row(True, lambda t: [learning_rates(t)[7] == pytest.approx(1.0)], LONG | {"STEPS": (6,), "WARMUP_ITERS": 4}),
}
#: refused wherever it is set, see tests/engine/test_batch_scaling.py
REFUSED = {"REFERENCE_WORLD_SIZE"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return register_toy_data(make_toy_data(tmp_path_factory.mktemp("toy")), "toy_values")


@pytest.mark.parametrize("key", SOLVER)
def test_solver(toy: str, key: str, tmp_path: Any) -> None:
    row = SOLVER[key]
    trainer = Trainer(with_values(toy_cfg(toy, tmp_path), "SOLVER", {**row.given, key: row.value}))
    assert_read(row, row.read(trainer))


def test_no_number_of_the_solver_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().SOLVER)) == set(SOLVER) | REFUSED


TTA = {
    "MIN_SIZES": Row((33, 44), lambda d: [tuple(mapper.min_sizes[0] for mapper in d._mappers)]),
    "MAX_SIZE": Row(77, lambda d: [mapper.max_size for mapper in d._mappers], {"MIN_SIZES": (33, 44)}),
    "FLIP": Row(False, lambda d: [mapper.flip for mapper in d._mappers]),
    "MERGE_THRESH": Row(0.33, lambda d: [d.merge_rule.threshold]),
    "SOFT_VOTE_MIN_SCORE": Row(0.22, lambda d: [d.merge_rule.min_score], {"MERGE": "soft_vote"}),
    "MAX_DETECTIONS": Row(23, lambda d: [d.max_detections], {"TEST.DETECTIONS_PER_IMAGE": 17}),
    "TEST.DETECTIONS_PER_IMAGE": Row(17, lambda d: [d.max_detections]),
}


@pytest.mark.parametrize("key", TTA)
def test_multi_scale_testing(key: str, toy: str) -> None:
    row = TTA[key]
    cfg = with_values(tiny_cfg(), "TEST.AUG", {**row.given, key: row.value})
    assert_read(row, row.read(build_multi_scale_detector(cfg, build_model(cfg), toy)))


@pytest.mark.parametrize("merge", ["nms", "vote", "soft_vote"])
def test_every_way_of_merging_has_its_threshold(merge: str, toy: str) -> None:
    cfg = with_values(tiny_cfg(), "TEST.AUG", {"MERGE": merge, "MERGE_THRESH": 0.33})
    way = build_multi_scale_detector(cfg, build_model(cfg), toy).merge_rule
    assert way.threshold == 0.33 and isinstance(way, SoftVoting) == (merge == "soft_vote")


def test_no_number_of_multi_scale_testing_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().TEST.AUG)) == set(TTA) - WHOLE | {"ENABLED"}  # which tests/engine/test_evaluate.py sets
