"""The comparison of a config with the published one that it claims."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from .architectures import read
from .settings import published, settings_of, source_of

__all__ = ["compare"]

#: settings of the sources that no config key of ours decides, and where they are tested instead
NOT_IN_CONFIGS = {
    "assigner.heatmap.": "corner point verification: golden case lsnet/cpv",
    "loss.heatmap_weight": "corner point verification: golden case lsnet/cpv",
    "loss.offset_weight": "corner point verification: golden case lsnet/cpv",
    "loss.sem_weight": "corner point verification: golden case lsnet/cpv",
    "loss.no_object_weight": "of a softmax alone, which no published config has",
}


def is_compared(key: str, path: Path) -> bool:
    if key.startswith("multi_scale_test"):
        return path.stem.endswith("ms_test")
    return not any(key.startswith(prefix) for prefix in NOT_IN_CONFIGS)


def same(theirs: Any, ours: Any) -> bool:
    """Whether two settings are the same: numbers to a millionth, lists and dicts element by element."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same(theirs[key], ours[key]) for key in theirs)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    if isinstance(theirs, bool) or isinstance(ours, bool) or theirs is None or ours is None:
        return theirs is ours
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    return theirs == ours


@cache
def compare(path: Path) -> tuple[dict[str, tuple[Any, Any]], int]:
    """What differs between a config and its source, key -> (theirs, ours), and how many settings were compared."""
    theirs, ours = published(source_of(path) or ""), settings_of(read(path))
    if path.stem.endswith("ms_test"):
        theirs = type(theirs)({key: value for key, value in theirs.items() if key.startswith("multi_scale_test")})
    keys = [key for key in theirs if is_compared(key, path) and not (key == "loss.box.least_normaliser" and theirs[key] in (None, 1e-6))]
    untranslated = [key for key in keys if key not in ours and theirs[key] is not None]
    assert not untranslated, f"tests/config/settings.py says nothing about {untranslated}"
    return {key: (theirs[key], ours.get(key)) for key in keys if not same(theirs[key], ours.get(key))}, len(keys)
