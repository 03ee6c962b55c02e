"""The table of what keys may be: it has every key of the default config, and every shipped config is within it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.config import CfgNode

from detkit.config import ConfigError, Form, check_config, flatten, get_cfg
from detkit.config.ranges import FREE_KEYS, MAY_BE_EMPTY, free_reason, key_limits

DEFAULTS = dict(flatten(get_cfg()))


def only(key: str, value: Any) -> CfgNode:
    """A config with nothing but one key, set as Python sets it, without a check."""
    *sections, name = key.split(".")
    node = CfgNode({name: value})
    for section in reversed(sections):
        node = CfgNode({section: node})
    return node


def refusals(values: dict[str, list[Any]]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and message of each; none where it is not refused."""
    for key, others in values.items():
        for value in others:
            try:
                check_config(only(key, value))
                yield key, value, ""
            except ConfigError as error:
                yield key, value, str(error)


def assert_refused(values: dict[str, list[Any]]) -> None:
    wrong = [(k, v, m) for k, v, m in refusals(values) if not m.startswith(f"{k} is {v!r}. It has to be ") or "\n" in m]
    assert values and not wrong, wrong


def test_every_key_is_in_the_table_or_has_a_reason_not_to_be() -> None:
    forgotten = [key for key, value in DEFAULTS.items() if not isinstance(value, bool) and key not in key_limits() and not free_reason(key)]
    assert not forgotten, f"say what they may be, or why no table can: {forgotten}"


def test_the_table_has_no_key_that_does_not_exist() -> None:
    assert set(key_limits()) <= set(DEFAULTS) and set(DEFAULTS) >= MAY_BE_EMPTY
    unused = [pattern for pattern in FREE_KEYS if not any(free_reason(key) == FREE_KEYS[pattern] for key in DEFAULTS)]
    assert not unused


def test_none_and_other_types_are_refused() -> None:
    other = {bool: [1], int: [0.5, "1"], float: [True, "1"], list: [3, "a word"], tuple: [3, "a word"], str: [3]}
    suppression = {f"MODEL.{method}.TEST.NMS_THRESH" for method in ("FCOS", "ATSS", "DW", "LSNET")}
    optional = {"SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS", *suppression}
    assert_refused({key: [None, *other[type(value)]] for key, value in DEFAULTS.items() if key not in optional})


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_suppression_can_be_left_out(word: str) -> None:
    cfg = get_cfg()
    for _ in range(2):  # of a number, and of what is none already
        cfg.merge_from_list(["MODEL.FCOS.TEST.NMS_THRESH", word, "MODEL.LSNET.TEST.NMS_THRESH", word])
    assert cfg.MODEL.FCOS.TEST.NMS_THRESH is None is cfg.MODEL.LSNET.TEST.NMS_THRESH
    check_config(cfg)
    cfg.merge_from_list(["MODEL.FCOS.TEST.NMS_THRESH", "0.5"])
    assert cfg.MODEL.FCOS.TEST.NMS_THRESH == 0.5
    with pytest.raises(ConfigError, match=r"MODEL\.FCOS\.TEST\.NMS_THRESH is -1\.0\. It has to be in \[0, 1\], or none"):
        check_config(only("MODEL.FCOS.TEST.NMS_THRESH", -1.0))
    cfg.merge_from_list(["MODEL.FCOS.TEST.SCORE_THRESH", word])
    with pytest.raises(ConfigError, match=r"MODEL\.FCOS\.TEST\.SCORE_THRESH is None\. It has to be a number in \[0, 1\]"):
        check_config(cfg)


def test_names_in_lists_are_texts() -> None:
    names = {key: value for key, value in DEFAULTS.items() if isinstance(value, (list, tuple)) and value and isinstance(value[0], str)}
    assert_refused({key: [type(value)([*value[:-1], 3])] for key, value in names.items()})


def test_nothing_that_is_no_number_gets_through() -> None:
    """NaN in the place of a number, or of the numbers of a list."""
    values = {}
    for key, limit in key_limits().items():
        default = DEFAULTS[key]
        if isinstance(limit, (str, Form)) and isinstance(default, (int, float)):
            values[key] = [math.nan, math.inf]
        elif isinstance(limit, (str, Form)) and isinstance(default, (list, tuple)):
            values[key] = [type(default)([math.nan for _ in default] or [math.nan])]
    del values["SOLVER.CLIP_GRADIENTS.NORM_TYPE"][1]  # the greatest of all is a norm, too
    assert_refused(values)


def test_lists_that_need_an_element() -> None:
    assert_refused(
        {key: [type(value)()] for key, value in DEFAULTS.items() if isinstance(value, (list, tuple)) and value and key not in MAY_BE_EMPTY}
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA = 0, -1.0
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER is 0\. .*\nSOLVER\.GAMMA is -1\.0\."):
        check_config(cfg)


def test_keys_of_others_are_left_alone() -> None:
    cfg = get_cfg()
    cfg.MODEL.MINE = None
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    check_config(cfg)
