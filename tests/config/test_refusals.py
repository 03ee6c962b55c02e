"""Every choice and every range of every method: a value outside is refused by its whole key, with the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.modeling import build_model

from detkit.assigners import ASSIGNER_REGISTRY, build_assigner
from detkit.backbones import check_backbone
from detkit.config import ConfigError, Form, Limit, Section, default_value, get_cfg
from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.config.backbones import BACKBONE_LIMITS
from detkit.config.data import DATA_LIMITS
from detkit.config.dense import DENSE_LIMITS, DENSE_TEST_LIMITS
from detkit.config.engine import SOLVER_LIMITS
from detkit.config.tta import TTA_LIMITS
from detkit.engine.setup import resolve_config
from detkit.tta import check_tta_config
from sparsercnn.config import LIMITS as SPARSE_RCNN_LIMITS
from tests.toys.detectors import tiny_cfg, tiny_sparse_cfg

#: choices that name a part; what is allowed is the set of parts
PARTS = {
    "TEST.QUALITY_FROM": ("branch", "box"),
    "LOSS.BOX": ("iou", "linear_iou", "giou", "smooth_l1"),
    "LOSS.BOX_WEIGHTING": ("centerness", "uniform"),
    "LOSS.QUALITY": ("centerness", "iou"),
    "LOSS.NORMALIZER": ("positives", "positives_per_image", "ema", "moving_fg", "all"),
}
SPARSE_RCNN_PARTS = ("PROPOSAL_INIT", "HEAD.INTERACTION", "HEAD.CLASSIFIER")
DENSE = {**DENSE_LIMITS, **DENSE_TEST_LIMITS, **PARTS}


def values_outside(limit: Limit, like: object) -> Iterator[Any]:
    """Values that a limit excludes, of the type of the default: just beyond each end that there is, or a word of no meaning."""
    if isinstance(limit, Form):
        yield type(like)([""]) if isinstance(like, (list, tuple)) else "" if isinstance(like, str) else type(like)(-1)
        return
    if not isinstance(limit, str):
        yield type(like)(["no such word"]) if isinstance(like, (list, tuple)) else "no such word"
        return
    low, high = (float(end) for end in limit[1:-1].split(","))
    number = like[0] if isinstance(like, (list, tuple)) else 0.0 if like is None else like
    step = 1 if isinstance(number, int) else 0.001
    if low == -math.inf:
        yield type(like)([math.nan]) if isinstance(like, (list, tuple)) else math.nan
        return
    ends = [low if limit[0] == "(" else low - step]
    if high < math.inf:
        ends.append(high if limit[-1] == ")" else high + step)
    for end in ends:
        value = type(number)(end)
        yield type(like)([*like[:-1], value]) if isinstance(like, (list, tuple)) else value


def cases(path: str, limits: dict[str, Limit]) -> list[tuple[str, Any, Limit]]:
    return [
        (f"{path}.{key}", value, limit) for key, limit in limits.items() for value in values_outside(limit, default_value(f"{path}.{key}"))
    ]


def message(key: str, value: Any, limit: Limit) -> str:
    if isinstance(limit, Form):
        return re.escape(f"{key} is {value!r}. It has to be {limit.words}")
    allowed = f"in {limit}" if isinstance(limit, str) else f"one of {', '.join(map(repr, limit))}"
    return re.escape(f"{key} is {value!r}. It has to be {allowed}")


@pytest.mark.parametrize("method", ["FCOS", "ATSS", "DW"])
def test_dense_detectors(method: str) -> None:
    seen = set()
    for key, value, limit in cases(f"MODEL.{method}", DENSE):
        weighted = method == "DW" and key.split(".", 2)[2] in PARTS and ".LOSS." in key
        cfg = tiny_cfg(method)
        if weighted:
            cfg.MODEL.DW.ASSIGNER = "FCOSAssigner"  # labels: the losses of weighted pairs read no such key
        cfg.merge_from_list([key, value])
        with pytest.raises(ConfigError, match=message(key, value, limit)):
            build_model(cfg)
        seen.add(key)
    assert len(seen) == len(DENSE)


def test_sparse_rcnn() -> None:
    seen = set()
    for key, value, limit in cases("MODEL.SPARSE_RCNN", SPARSE_RCNN_LIMITS):
        cfg = tiny_sparse_cfg()
        cfg.merge_from_list([key, value])
        with pytest.raises(ConfigError, match=message(key, value, limit)):
            build_model(cfg)
        seen.add(key)
    assert len(seen) == len(SPARSE_RCNN_LIMITS)


@pytest.mark.parametrize("name", sorted(name for name, _ in ASSIGNER_REGISTRY if name.endswith("Assigner")))
def test_assigners(name: str) -> None:
    kind = ASSIGNER_REGISTRY.get(name)
    if kind.__module__.split(".")[0] != "detkit":
        pytest.skip("an assigner of another test")
    path = f"MODEL.ASSIGNERS.{kind.config_section}"
    for key, value, limit in cases(path, ASSIGNER_LIMITS[kind.config_section]):
        cfg = get_cfg()
        cfg.merge_from_list([key, value])
        with pytest.raises(ConfigError, match=message(key, value, limit)):
            build_assigner(name, cfg, key="MODEL.FCOS.ASSIGNER", num_classes=3)


def test_every_number_and_word_of_an_assigner_has_a_limit() -> None:
    for section, node in get_cfg().MODEL.ASSIGNERS.items():
        free = {key for key, value in node.items() if isinstance(value, bool) or key == "BASE"}
        assert set(ASSIGNER_LIMITS[section]) == set(node) - free


@pytest.mark.parametrize(
    ("path", "limits", "free"),
    [
        ("MODEL.FCOS", DENSE, {"ASSIGNER", "AUXILIARY.ASSIGNER", "HEAD.NAME", "HEAD.NORM", "IN_FEATURES"}),
        ("MODEL.SPARSE_RCNN", SPARSE_RCNN_LIMITS, {"ASSIGNER", "IN_FEATURES", "TEST.STAGE", *SPARSE_RCNN_PARTS}),
    ],
)
def test_every_number_and_word_of_a_method_has_a_limit(path: str, limits: dict[str, Limit], free: set[str]) -> None:
    """But for names of parts and levels, which are checked where these are looked up."""
    unlimited = {key for key, value in flat(Section(get_cfg(), path)) if not isinstance(value, bool)} - set(limits)
    assert unlimited == free


def flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in section:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["MODEL.FCOS.ASSIGNER", "DWAssigner", "MODEL.FCOS.LOSS.BOX_WEIGHT", 2.0],
            "MODEL.FCOS.LOSS.BOX_WEIGHT is 2.0, but a loss of weighted pairs does not read it. Leave it at 1.0",
        ),
        (["MODEL.FCOS.LOSS.SMOOTH_L1_BETA", 0.5], "MODEL.FCOS.LOSS.SMOOTH_L1_BETA is 0.5, but the box loss 'iou' does not read it"),
        (["MODEL.FCOS.BOX_CODER.DELTA_CLAMP_BELOW", True], "DELTA_CLAMP_BELOW is True, but the box coder 'exp' does not read it"),
        (
            ["MODEL.FCOS.AUXILIARY.BOX_WEIGHT", 1.0],
            "MODEL.FCOS.AUXILIARY.BOX_WEIGHT is 1.0, but a detector without AUXILIARY.ASSIGNER does not read it",
        ),
        (["MODEL.FCOS.AUXILIARY.ASSIGNER", "ATTSAssigner"], "MODEL.FCOS.AUXILIARY.ASSIGNER is 'ATTSAssigner'"),
        (["MODEL.FCOS.HEAD.FILTER_SIZE", 5], "MODEL.FCOS.HEAD.FILTER_SIZE is 5, but DenseHead does not read it"),
        (
            ["MODEL.FCOS.AUXILIARY.ASSIGNER", "ATSSAssigner", "MODEL.FCOS.AUXILIARY.CLS_WEIGHT", 0.0],
            "MODEL.FCOS.AUXILIARY.CLS_WEIGHT is 0.0. It has to be above 0, or AUXILIARY.BOX_WEIGHT: else ATSSAssigner assigns for nothing",
        ),
        (
            ["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead", "MODEL.FCOS.HEAD.QUALITY", "box", "MODEL.FCOS.ASSIGNER", "POTOAssigner"],
            "MODEL.FCOS.LOSS.CRITERION is 'auto'. It has to be 'weighted' for HEAD.NAME MaxFilteringHead",
        ),
        (
            ["MODEL.FCOS.AUXILIARY.ASSIGNER", "AutoAssignAssigner", "MODEL.FCOS.AUXILIARY.CLS_WEIGHT", 0.0]
            + ["MODEL.FCOS.AUXILIARY.BOX_WEIGHT", 1.0],
            "MODEL.FCOS.AUXILIARY.CLS_WEIGHT is 0.0. It has to be above 0: the loss of AutoAssignAssigner holds class and box in one",
        ),
        (
            ["MODEL.FCOS.AUXILIARY.ASSIGNER", "DWAssigner", "MODEL.FCOS.LOSS.BOX", "smooth_l1"],
            "MODEL.FCOS.LOSS.BOX is 'smooth_l1'. It has to be 'iou' or 'giou' with AUXILIARY.ASSIGNER DWAssigner",
        ),
        *(
            (
                ["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead", "MODEL.FCOS.HEAD.QUALITY", "box", "MODEL.FCOS.HEAD.NORM", norm],
                f"MODEL.FCOS.HEAD.NORM is '{norm}'. It has to be 'GN' or '' for MaxFilteringHead",
            )
            for norm in ("BN", "nnSyncBN")
        ),
        (["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead"], "MODEL.FCOS.HEAD.QUALITY is 'cls'. It has to be 'box' for MaxFilteringHead"),
        (
            ["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead", "MODEL.FCOS.HEAD.QUALITY", "box", "MODEL.FCOS.HEAD.FILTER_SIZE", 4],
            "MODEL.FCOS.HEAD.FILTER_SIZE is 4. It has to be odd",
        ),
        (
            ["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead", "MODEL.FCOS.HEAD.QUALITY", "box", "MODEL.FCOS.HEAD.FILTER_LEVELS", 1],
            "MODEL.FCOS.HEAD.FILTER_LEVELS is 1. It has to be even",
        ),
        (["MODEL.FCOS.HEAD.COARSE_BOX", "anchor"], "MODEL.FCOS.HEAD.COARSE_BOX is 'anchor', but DenseHead does not read it"),
        (
            ["MODEL.FCOS.ASSIGNER", "VFLAssigner", "MODEL.ASSIGNERS.VFL.BASE", "DWAssigner"],
            "MODEL.ASSIGNERS.VFL.BASE is 'DWAssigner', which gives weights",
        ),
        (
            ["MODEL.FCOS.LOSS.CRITERION", "labels", "MODEL.FCOS.ASSIGNER", "DWAssigner"],
            "MODEL.FCOS.LOSS.CRITERION is 'labels', which cannot use the weights",
        ),
        (
            ["MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST", [128, 64]],
            "MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST: sizes_of_interest must be positive and ascending",
        ),
        (["MODEL.FCOS.HEAD.CHANNELS", 48], "MODEL.FCOS.HEAD.CHANNELS is 48. It has to be divisible by 32"),
        (["TEST.DETECTIONS_PER_IMAGE", 0], "TEST.DETECTIONS_PER_IMAGE is 0. It has to be in"),
    ],
)
def test_values_that_contradict_each_other(options: list[Any], words: str) -> None:
    cfg = tiny_cfg("FCOS")
    cfg.merge_from_list(options)
    with pytest.raises(ConfigError, match=re.escape(words)):
        build_model(cfg)


def engine_cases() -> Iterator[tuple[str, Any, Limit]]:
    for section, limits in {"SOLVER": SOLVER_LIMITS, "TEST.AUG": TTA_LIMITS, "MODEL": BACKBONE_LIMITS, **DATA_LIMITS}.items():
        yield from cases(section, limits)


def check_all(cfg: Any) -> None:
    """What a training or an evaluation checks before it builds anything."""
    resolve_config(cfg)
    check_tta_config(cfg)
    check_backbone(cfg)


@pytest.mark.parametrize(("key", "value", "limit"), list(engine_cases()), ids=lambda value: str(value).replace(" ", ""))
def test_engine_data_and_backbones(key: str, value: Any, limit: Limit) -> None:
    cfg = get_cfg()
    check_all(cfg)
    section, _, name = key.rpartition(".")
    node = cfg
    for part in section.split("."):
        node = node[part]
    node[name] = value
    with pytest.raises(ConfigError, match=message(key, value, limit)):
        check_all(cfg)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["VIS_PERIOD", 20], "VIS_PERIOD is 20, but no detector here draws while it trains. Leave it at 0"),
        (["MODEL.LOAD_PROPOSALS", True], "MODEL.LOAD_PROPOSALS is True. Proposals from files are not used"),
        (["DATASETS.PROPOSAL_FILES_TRAIN", ("a.pkl",)], "DATASETS.PROPOSAL_FILES_TRAIN is ('a.pkl',). Proposals from files"),
        (["DATASETS.PROPOSAL_FILES_TEST", ("a.pkl",)], "DATASETS.PROPOSAL_FILES_TEST is ('a.pkl',). Proposals from files"),
        (["SOLVER.REFERENCE_WORLD_SIZE", 8], "SOLVER.REFERENCE_WORLD_SIZE is 8. It has to be 0"),
        (["SOLVER.STEPS", (5, 3)], "SOLVER.STEPS is (5, 3). It has to be ascending numbers"),
        (["INPUT.MIN_SIZE_TRAIN", ()], "INPUT.MIN_SIZE_TRAIN is (). It has to be"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (3, 4, 5)], "INPUT.MIN_SIZE_TRAIN is (3, 4, 5). It has to be"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'. It has to be a device that is here: 'cuda'"),
        (["MODEL.PIXEL_STD", [1.0]], "MODEL.PIXEL_STD is [1.0]. It has to be as long as MODEL.PIXEL_MEAN, 3"),
        (["MODEL.BACKBONE.NAME", "build_resnet"], "MODEL.BACKBONE.NAME is 'build_resnet'. It has to be one of"),
        (["MODEL.BACKBONE.WEIGHTS", "timm"], "MODEL.BACKBONE.WEIGHTS is 'timm', but build_resnet_backbone does not read it"),
        (["MODEL.RESNETS.DEPTH", 18], "MODEL.RESNETS.RES2_OUT_CHANNELS is 256. It has to be 64 for MODEL.RESNETS.DEPTH 18"),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True]], "MODEL.RESNETS.DEFORM_ON_PER_STAGE is [True]. It has to be one True or False"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 48], "MODEL.FPN.OUT_CHANNELS is 48. It has to be divisible by 32"),
        (["TEST.AUG.MAX_SIZE", 300], "TEST.AUG.MAX_SIZE is 300. It has to be at least the greatest of TEST.AUG.MIN_SIZES, 1200"),
        (["TEST.AUG.SOFT_VOTE_MIN_SCORE", 0.3], "TEST.AUG.SOFT_VOTE_MIN_SCORE is 0.3, but merging by 'nms' does not read it"),
    ],
)
def test_keys_of_the_engine_that_contradict_each_other_or_are_not_read(options: list[Any], words: str) -> None:
    def merge_and_check() -> None:
        cfg = get_cfg()
        cfg.merge_from_list(options)
        check_all(cfg)

    with pytest.raises(ConfigError, match=re.escape(words)):
        merge_and_check()
