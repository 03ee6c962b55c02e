"""The numbers of a config (dense detectors and assigners) reach the object that they are for: set to an unusual value, they are read back.

The tables have all numeric keys of a section; a key that is added without a row fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from detectron2.modeling import build_model
from torch import nn

from detkit.assigners import ASSIGNER_REGISTRY, Assigner, build_assigner
from detkit.config import ConfigError, get_cfg
from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.config.limits import allowed_values
from tests.toys.detectors import tiny_cfg

from .reading_back import WHOLE, Row, assert_read, numeric_keys, with_values

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
FILTER = {"HEAD.NAME": "MaxFilteringHead", "HEAD.QUALITY": "box", "LOSS.CRITERION": "weighted"}
AUXILIARY = {"AUXILIARY.ASSIGNER": "ATSSAssigner"}
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
    "HEAD.FILTER_SIZE": Row(5, lambda m: [m.head.filter.size], FILTER),
    "HEAD.FILTER_LEVELS": Row(4, lambda m: [m.head.filter.levels], FILTER),
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
    "AUXILIARY.CLS_WEIGHT": Row(0.7, lambda m: [m.auxiliary.cls_weight], AUXILIARY),
    "AUXILIARY.BOX_WEIGHT": Row(0.6, lambda m: [m.auxiliary.box_weight], AUXILIARY),
    "TEST.SCORE_THRESH": Row(0.21, lambda m: [m.postprocessor.score_thresh]),
    "TEST.TOPK_PER_LEVEL": Row(33, lambda m: [m.postprocessor.topk_per_level]),
    "TEST.NMS_THRESH": Row(0.37, lambda m: [m.postprocessor.nms_thresh]),
    "TEST.CLIP_BEFORE_NMS": Row(False, lambda m: [m.postprocessor.clip]),
    "TEST.DROP_EMPTY": Row(True, lambda m: [m.postprocessor.drop_empty]),
    "TEST.VOTE_SIGMA": Row(0.025, lambda m: [m.postprocessor.vote_sigma]),
    "TEST.DETECTIONS_PER_IMAGE": Row(17, lambda m: [m.postprocessor.max_detections]),
}
DENSE = HEAD | LOSS | DETECTOR


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


def test_weight_of_boxes_with_the_loss_of_weighted_pairs() -> None:
    """Which hard labels read, and weightings bring along."""
    values = {"LOSS.CRITERION": "weighted", "LOSS.BOX_WEIGHT": 2.5}
    assert build_model(with_values(tiny_cfg(), "MODEL.FCOS", values)).criterion.box_weight == 2.5
    values = {"AUXILIARY.ASSIGNER": "DWAssigner", "LOSS.BOX_WEIGHT": 2.5, "LOSS.BOX": "giou"}
    model = build_model(with_values(tiny_cfg(), "MODEL.FCOS", values))
    assert (model.criterion.box_weight, model.auxiliary.criterion.box_weight) == (2.5, 1.0)


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
