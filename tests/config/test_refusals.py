"""Every choice and every range of every method: a value outside is refused by its whole key, with the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.modeling import build_model

from detkit.assigners import ASSIGNER_REGISTRY, build_assigner
from detkit.config import ConfigError, Limit, Section, default_value, get_cfg
from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.config.dense import DENSE_LIMITS, DENSE_TEST_LIMITS
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
    if not isinstance(limit, str):
        yield "no such word"
        return
    low, high = (float(end) for end in limit[1:-1].split(","))
    number = like[0] if isinstance(like, (list, tuple)) else like
    step = 1 if isinstance(number, int) else 0.001
    if low == -math.inf:
        yield math.nan
        return
    ends = [low if limit[0] == "(" else low - step]
    if high < math.inf:
        ends.append(high if limit[-1] == ")" else high + step)
    for end in ends:
        value = type(number)(end)
        yield [*like[:-1], value] if isinstance(like, list) else value


def cases(path: str, limits: dict[str, Limit]) -> list[tuple[str, Any, Limit]]:
    return [
        (f"{path}.{key}", value, limit) for key, limit in limits.items() for value in values_outside(limit, default_value(f"{path}.{key}"))
    ]


def message(key: str, value: Any, limit: Limit) -> str:
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
        ("MODEL.FCOS", DENSE, {"ASSIGNER", "HEAD.NAME", "HEAD.NORM", "IN_FEATURES"}),
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
