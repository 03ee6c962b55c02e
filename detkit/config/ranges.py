"""The one table of what every key of the config may be, and its check before anything is built."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import cache
from typing import Any

from detectron2.config import CfgNode

from .assigners import ASSIGNER_LIMITS
from .backbones import BACKBONE_LIMITS
from .data import DATA_LIMITS
from .defaults import default_value
from .engine import RUN_LIMITS, SOLVER_LIMITS, TEST_LIMITS
from .inherited import INHERITED_LIMITS
from .limits import Form, Limit, allowed_values
from .plugins import load_method_packages
from .reader import ConfigError, flatten, shown
from .tta import TTA_LIMITS

__all__ = ["FREE_KEYS", "MAY_BE_EMPTY", "check_config", "free_reason", "key_limits"]

_LOOKED_UP = "names a part, which is looked up among those that are registered where it is built"
_FILES = "names files or addresses, which are looked for where they are opened"
_LEVELS = "names levels or stages of the backbone, which are compared with those that it has"
#: keys whose values no table can hold, by pattern, and why; their type is checked all the same
FREE_KEYS: dict[str, str] = {
    **dict.fromkeys(
        (
            "INPUT.MAPPER",
            "MODEL.ANCHOR_GENERATOR.NAME",
            "MODEL.BACKBONE.ARCH",
            "MODEL.BACKBONE.NAME",
            "MODEL.FPN.BOTTOM_UP",
            "MODEL.META_ARCHITECTURE",
            "MODEL.PROPOSAL_GENERATOR.NAME",
            "MODEL.ROI_*.NAME",
            "MODEL.RPN.HEAD_NAME",
            "MODEL.SEM_SEG_HEAD.NAME",
            "MODEL.*ASSIGNER",
            "MODEL.ASSIGNERS.*.BASE",
            "MODEL.*.HEAD.NAME",
            "MODEL.*.HEAD.NORM",
            "MODEL.*.LOSS.BOX",
            "MODEL.*.LOSS.BOX_WEIGHTING",
            "MODEL.*.LOSS.NORMALIZER",
            "MODEL.*.LOSS.QUALITY",
            "MODEL.*.TEST.QUALITY_FROM",
            "MODEL.SPARSE_RCNN.HEAD.CLASSIFIER",
            "MODEL.SPARSE_RCNN.HEAD.INTERACTION",
            "MODEL.SPARSE_RCNN.PROPOSAL_INIT",
        ),
        _LOOKED_UP,
    ),
    **dict.fromkeys(("MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS", "DATASETS.*_JSON", "DATASETS.*_IMAGES"), _FILES),
    "MODEL.*IN_FEATURES": _LEVELS,
    "MODEL.DEVICE": "is tried: torch says which devices it has",
    "MODEL.SPARSE_RCNN.TEST.STAGE": "is compared with the number of stages",
    "VIS_PERIOD": "is refused unless it is 0",
    "SOLVER.REFERENCE_WORLD_SIZE": "is refused unless it is 0",
    "GLOBAL.HACK": "is read by nothing; Detectron2 keeps it for experiments",
}
#: keys that may be None: as of all other weights
_MAY_BE_NONE = {"SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM"}
#: keys whose lists may be empty though their defaults are not; other lists need an element, unless their default has none
MAY_BE_EMPTY = {"MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST", "SOLVER.STEPS"}


@cache
def key_limits() -> Mapping[str, Limit]:
    """What keys may be, by whole key: those of Detectron2, of detkit, and of the method packages (their ``CONFIG_LIMITS``)."""
    sections = {
        "SOLVER": SOLVER_LIMITS,
        "TEST": TEST_LIMITS,
        "TEST.AUG": TTA_LIMITS,
        "MODEL": BACKBONE_LIMITS,
        **{f"MODEL.ASSIGNERS.{name}": limits for name, limits in ASSIGNER_LIMITS.items()},
        **DATA_LIMITS,
    }
    for package in load_method_packages():
        sections |= getattr(package, "CONFIG_LIMITS", {})
    return INHERITED_LIMITS | RUN_LIMITS | {f"{path}.{key}": limit for path, limits in sections.items() for key, limit in limits.items()}


def free_reason(key: str) -> str | None:
    """Why no table holds the values of a key; None where one does, or where nothing is known of the key."""
    return next((reason for pattern, reason in FREE_KEYS.items() if fnmatch.fnmatchcase(key, pattern)), None)


def check_config(cfg: CfgNode) -> None:
    """Checks type and range of every key, whether or not the chosen parts read it. Keys that others have added are left alone.

    Raises:
        ConfigError: all values that cannot be, one a line, each with its whole key and what is allowed.
    """
    found = [(key, value, _allowed(key, value)) for key, value in flatten(cfg)]
    problems = [f"{key} is {shown(repr(value))}. It has to be {allowed}." for key, value, allowed in found if allowed]
    if problems:
        raise ConfigError("\n".join(problems))


def _allowed(key: str, value: Any) -> str | None:
    """What is allowed, in words, if a value is not; None if it is."""
    default, limit = default_value(key), key_limits().get(key)
    if key in _MAY_BE_NONE:
        return None if value is None or limit is None else allowed_values(value, limit)
    if value is None and isinstance(limit, Form) and allowed_values(None, limit) is None:
        return None
    if default is None:
        return None  # not ours
    if not _is_like(value, default):
        return _described(default, limit)
    if isinstance(value, (list, tuple)) and not value:
        return None if key in MAY_BE_EMPTY or not default else f"one or more{f' numbers in {limit}' if isinstance(limit, str) else ''}"
    return None if limit is None else allowed_values(value, limit)


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the type of the default: whole numbers are numbers, lists and tuples are one, names stay names."""
    if isinstance(default, (list, tuple)):
        names = len(default) > 0 and isinstance(default[0], str)
        return isinstance(value, (list, tuple)) and (not names or all(isinstance(each, str) for each in value))
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def _described(default: Any, limit: Limit | None) -> str:
    nouns = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    noun = nouns.get(type(default), "a list" if limit is None else "a list of numbers")
    if limit is None:
        return noun
    return f"{noun} in {limit}" if isinstance(limit, str) else str(allowed_values(_NOTHING, limit))


#: what no limit allows
_NOTHING = [object()]
