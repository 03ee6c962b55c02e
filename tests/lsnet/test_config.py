"""Values of ``MODEL.LSNET`` that cannot be, and keys that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detkit.config import ConfigError, get_cfg
from detkit.config.limits import Form
from lsnet.config import LIMITS, READ_WITH, check_config

from .test_whole import cfg_of

CONFIGS = Path(__file__).parents[2] / "configs"
#: checked where parts are built (below), or without a value that could be wrong
WITHOUT_LIMITS = {"IN_FEATURES", "INIT_ASSIGNER", "ASSIGNER", "IGNORE_PADDING", "HEAD.DEFORMABLE_TOWERS", "CPV.ENABLED"}
#: settings with which a key is read, where it is not with the defaults of the tiny detector
READERS = {
    "CPV.POOLED_CHANNELS": {"CPV.ENABLED": True},
    "CPV.NUM_CONVS": {"CPV.ENABLED": True},
    "CONTOUR_LANDMARKS": {"TASKS": ["segm"]},
    "SEGM_BOX": {"TASKS": ["segm"]},
    "NUM_KEYPOINTS": {"TASKS": ["pose"]},
    "POSE_BOX": {"TASKS": ["pose"]},
    "LOSS.BOX_FACTOR": {"TASKS": ["pose"]},
    "LOSS.SMOOTH_L1_BETA": {"LOSS.VECTOR": "smooth_l1"},
}


def with_values(values: dict[str, Any]) -> CfgNode:
    """The config of a tiny detector with these keys of ``MODEL.LSNET``."""
    cfg = cfg_of("bbox")
    for key, value in values.items():
        *path, last = key.split(".")
        node = cfg.MODEL.LSNET
        for name in path:
            node = node[name]
        node[last] = value
    return cfg


def ends(interval: str) -> tuple[float, float]:
    low, high = (float(end) for end in interval[1:-1].split(","))
    return low, high


def wrong_values() -> Iterator[tuple[str, Any, str]]:
    """Key, a value just outside its limits, and what the message says is allowed."""
    for key, limit in LIMITS.items():
        if isinstance(limit, str):
            low, high = ends(limit)
            for value in (low if limit[0] == "(" else low - 1, high if limit[-1] == ")" else high + 1, float("nan")):
                yield key, value, f"in {limit}"
        elif isinstance(limit, Form):
            yield from ((key, value, limit.words) for value in (-1.0, 2.0, float("nan")))
        else:
            yield key, f"{limit[0]}_", ", ".join(map(repr, limit))


@pytest.mark.parametrize(("key", "value", "allowed"), list(wrong_values()), ids=str)
def test_what_cannot_be_is_refused(key: str, value: Any, allowed: str) -> None:
    cfg = with_values({**READERS.get(key, {}), key: value})
    with pytest.raises(ConfigError, match=re.escape(f"MODEL.LSNET.{key} is {value!r}. It has to be ") + ".*" + re.escape(allowed)):
        build_model(cfg)


def test_the_nearest_choice_is_named() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.LSNET\.HEAD\.FEATURES is 'piramid'.*did you mean 'pyramid'\?"):
        build_model(with_values({"HEAD.FEATURES": "piramid"}))


def test_every_key_has_limits() -> None:
    def keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
        for name, value in node.items():
            yield from keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]

    assert set(keys(get_cfg().MODEL.LSNET)) == set(LIMITS) | WITHOUT_LIMITS


def another_value(key: str) -> Any:
    """A value within the limits of a key that is not its default."""
    default = get_cfg().MODEL.LSNET
    for name in key.split("."):
        default = default[name]
    limit = LIMITS.get(key)
    if limit is None:
        return "CentroidAssigner" if key == "ASSIGNER" else not default
    if not isinstance(limit, str):
        return next(word for word in limit if word != default)
    return type(default)(default / 2) if ends(limit)[1] <= 1 else default + 32


def unread() -> Iterator[tuple[str, str, Any]]:
    """Every key that needs others, with one other and a value of it with which the key is not read."""
    values = {"TASKS": ("bbox", "segm", "pose"), "POSE_BOX": LIMITS["POSE_BOX"], "HEAD.STAGES": (1, 2), "CPV.ENABLED": (True, False)}
    for key, readers in READ_WITH.items():
        for other, readable in readers.items():
            for value in values.get(other) or LIMITS[other]:
                if value not in readable:
                    yield key, other, [value] if other == "TASKS" else value


@pytest.mark.parametrize(("key", "other", "value"), list(unread()), ids=str)
def test_keys_that_nothing_reads_are_refused(key: str, other: str, value: Any) -> None:
    base = {"TASKS": ["pose"]} if other == "POSE_BOX" else {"HEAD.FEATURES": "point"} if other == "HEAD.STAGES" else {}
    changed = another_value(key)
    with pytest.raises(
        ConfigError, match=re.escape(f"MODEL.LSNET.{key} is {changed!r}.") + f".*its default: it is read only with.*{other} "
    ):
        build_model(with_values({**base, other: value, key: changed}))


@pytest.mark.parametrize("key", READ_WITH)
def test_keys_that_are_read_are_allowed(key: str) -> None:
    settings = {
        **READERS.get(key, {}),
        **{other: [values[0]] if other == "TASKS" else values[0] for other, values in READ_WITH[key].items()},
    }
    check_config(with_values({**settings, key: another_value(key)}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"HEAD.STAGES": 1, "HEAD.FEATURES": "landmark"}, r"HEAD\.FEATURES is 'landmark'\. It has to be 'point' with HEAD\.STAGES 1"),
        (
            {"TASKS": ["pose"], "LOSS.VECTOR": "giou"},
            r"LOSS\.VECTOR is 'giou'\. It has to be 'cross_iou' or 'smooth_l1' with TASKS \['pose'\]",
        ),
        (
            {"TASKS": ["bbox", "segm"], "LOSS.VECTOR": "giou"},
            r"LOSS\.VECTOR is 'giou'\. It has to be 'cross_iou' or 'smooth_l1' with TASKS \['bbox', 'segm'\]",
        ),
        (
            {"TASKS": ["segm", "pose"], "LOSS.VECTOR": "giou"},
            r"LOSS\.VECTOR is 'giou'\. It has to be 'cross_iou' or 'smooth_l1' with TASKS \['segm', 'pose'\]",
        ),
        ({"TASKS": []}, r"TASKS is \[\]\. It has to be a list of one or more of 'bbox', 'segm' and 'pose', each once"),
        ({"TASKS": ["segm", "bbox", "segm"]}, r"TASKS is \['segm', 'bbox', 'segm'\]\. It has to be a list .* each once"),
        ({"TASKS": ["bbox", "masks"]}, r"TASKS is \['bbox', 'masks'\]\. It has to be one of 'bbox', 'segm', 'pose'"),
        (
            {"TASKS": ["bbox", "segm"], "SEGM_BOX": "object"},
            r"SEGM_BOX is 'object', but a detector of several TASKS, here bbox, segm, does not",
        ),
        ({"TASKS": ["bbox", "pose"], "POSE_BOX": "keypoints"}, r"POSE_BOX is 'keypoints', but a detector of several TASKS"),
        ({"TASKS": ["bbox", "pose"], "CPV.ENABLED": True}, r"CPV\.ENABLED is True, but a detector of several TASKS"),
        ({"TASKS": ["bbox", "pose"], "LOSS.BOX_FACTOR": 0.5}, r"LOSS\.BOX_FACTOR is 0\.5, but a detector with 'bbox' among its TASKS"),
        ({"HEAD.CHANNELS": 40}, r"HEAD\.CHANNELS is 40\. It has to be divisible by 32"),
        ({"CPV.ENABLED": True, "CPV.POOLED_CHANNELS": 20}, r"CPV\.POOLED_CHANNELS is 20\. It has to be divisible by 32"),
        ({"ASSIGNER": "PredictedATSAssigner"}, r"ASSIGNER is 'PredictedATSAssigner'.*did you mean 'PredictedATSSAssigner'"),
        ({"INIT_ASSIGNER": "Centroid"}, r"INIT_ASSIGNER is 'Centroid', .*It has to be one of .*'CentroidAssigner'"),
        ({"ASSIGNER": "DWAssigner"}, r"ASSIGNER is 'DWAssigner', which gives weights.*PredictedATSSAssigner"),
        ({"INIT_ASSIGNER": "ATSSAssigner"}, r"INIT_ASSIGNER is 'ATSSAssigner', which needs anchors"),
        ({"IN_FEATURES": ["p4", "p3", "p5"]}, r"IN_FEATURES .* from fine to coarse"),
        ({"IN_FEATURES": ["p3", "p9"]}, r"IN_FEATURES is \['p3', 'p9'\]. It has to be one of 'p3'"),
        ({"IN_FEATURES": ["p3", "p4"]}, r"IN_FEATURES is \['p3', 'p4'\]\. It has to be a list of at least 3 levels"),
    ],
)
def test_parts_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.LSNET\." + message):
        build_model(with_values(values))


@pytest.mark.parametrize("path", sorted([*CONFIGS.glob("lsnet/*.yaml"), *CONFIGS.glob("quick/lsnet*.yaml")]), ids=lambda path: path.stem)
def test_shipped_configs_pass(path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    check_config(cfg)


def test_configs_of_before_say_what_became_of_their_key(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("MODEL:\n  LSNET:\n    TASK: segm\n")
    with pytest.raises(ConfigError, match=r"old\.yaml: Key MODEL\.LSNET\.TASK was renamed to MODEL\.LSNET\.TASKS.*TASKS: \[\"segm\"\]"):
        get_cfg().merge_from_file(str(path))
