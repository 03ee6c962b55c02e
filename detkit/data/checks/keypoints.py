"""Keypoints of annotations against the keypoints that categories name."""

from __future__ import annotations

import math
from typing import Any

from .errors import DataFault
from .schema import Findings, shown

__all__ = ["check_keypoints"]

_NUMBER = {int, float}


def check_keypoints(content: dict[str, Any], findings: Findings) -> None:
    """Checks names, skeleton, coordinates and visibility, and counts ``num_keypoints`` where that is missing or null.

    Annotated keypoints are as many as the category names; of categories that name none, as many as another one names (zeros, usually).
    Where no category names any, each is three numbers.
    """
    for position, category in findings.usable("categories", content["categories"]):
        _check_names(position, category, findings)
    annotations = content.get("annotations", [])
    if not any("keypoints" in annotation for annotation in annotations if isinstance(annotation, dict)):
        return
    categories = findings.usable("categories", content["categories"])
    named = {category["id"]: len(category["keypoints"]) for _, category in categories if category.get("keypoints")}
    most = max(named.values(), default=0)
    for position, annotation in list(findings.usable("annotations", annotations)):
        if annotation.get("keypoints"):  # else missing, null or empty: not annotated
            _check_points(position, annotation, 3 * named.get(annotation["category_id"], most), findings)


def _check_points(position: int, annotation: dict[str, Any], expected: int, findings: Findings) -> None:
    """The keypoints of one annotation; ``expected`` numbers, or any multiple of three where that is 0."""
    keypoints, where = annotation["keypoints"], f"annotations[{position}]"
    if not isinstance(keypoints, list) or not set(map(type, keypoints)) <= _NUMBER or not _finite(keypoints):
        fault = DataFault("'keypoints' of 'annotations' is not a list of finite numbers", where, shown(keypoints))
    elif len(keypoints) % 3 or (expected and len(keypoints) != expected):
        asked = f"its category asks for {expected}" if expected else "each keypoint has x, y and visibility"
        fault = DataFault("keypoints of a wrong length", f"annotation {annotation['id']}", f"{len(keypoints)} numbers, {asked}")
    elif not set(keypoints[2::3]) <= {0, 1, 2}:
        fault = DataFault("visibility of a keypoint is not 0, 1 or 2", where, shown(keypoints[2::3]))
    else:
        _check_count(position, annotation, findings)
        return
    findings.add("annotations", position, fault)


def _check_names(position: int, category: dict[str, Any], findings: Findings) -> None:
    where, names, skeleton = f"categories[{position}]", category.get("keypoints"), category.get("skeleton")
    if names is not None and not (isinstance(names, list) and set(map(type, names)) <= {str}):
        findings.add("categories", position, DataFault("'keypoints' of 'categories' is not a list of names", where, shown(names)))
        return
    count = len(names or ())
    if names and skeleton is not None and not (isinstance(skeleton, list) and all(_is_edge(edge, count) for edge in skeleton)):
        kind = "'skeleton' of 'categories' is not a list of pairs of keypoints, numbered from 1"
        findings.add("categories", position, DataFault(kind, where, shown(skeleton)))


def _is_edge(edge: Any, count: int) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(type(end) is int and 1 <= end <= count for end in edge)


def _check_count(position: int, annotation: dict[str, Any], findings: Findings) -> None:
    count = annotation.get("num_keypoints")
    if count is None:
        state = "null" if "num_keypoints" in annotation else "missing"
        annotation["num_keypoints"] = sum(flag > 0 for flag in annotation["keypoints"][2::3])
        findings.repairs[f"'num_keypoints' {state}"] += 1
    elif type(count) not in _NUMBER or not 0 <= count < math.inf:
        kind = "'num_keypoints' of 'annotations' is not a number from 0 on"
        findings.add("annotations", position, DataFault(kind, f"annotations[{position}]", shown(count)))


def _finite(values: list[float]) -> bool:
    try:
        return math.isfinite(math.fsum(map(abs, values)))
    except OverflowError:
        return False
