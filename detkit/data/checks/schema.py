"""The COCO annotation format as it is read here: which fields an entry has, of which type and range.

Fields that no code here, in Detectron2 or in pycocotools reads may hold anything. A value that can be put right without doubt is put right
and counted; every other one is a fault. Whole columns of values are looked at at once, so that a million annotations take seconds; single
values only where a column holds something unusual.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from .errors import DataFault

__all__ = ["SCHEMA", "Field", "Findings", "check_fields", "is_box", "shown"]

_MISSING = object()
#: the largest side of an image; a larger number is no number of pixels
_MAX_SIDE = 2**31 - 1


@dataclass
class Findings:
    """What the check of a file found.

    Attributes:
        faults: what cannot be used.
        repairs: what was put right, in words, and how often.
        unusable: section -> positions of the entries that have a fault; later checks pass over them.
    """

    faults: list[DataFault] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    unusable: dict[str, set[int]] = field(default_factory=dict)

    def add(self, section: str, position: int, fault: DataFault) -> None:
        """A fault of one entry."""
        self.faults.append(fault)
        self.unusable.setdefault(section, set()).add(position)

    def usable(self, section: str, entries: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The entries of a section that have no fault so far, with their positions."""
        bad = self.unusable.get(section, set())
        return ((position, entry) for position, entry in enumerate(entries) if position not in bad)


@dataclass(frozen=True)
class Field:
    """One field of the entries of a section.

    Attributes:
        name: its key.
        meaning: what a value has to be; completes "is not ...".
        types: of values of which ``in_range`` alone decides.
        in_range: whether all values of a column, each of these types, are in range.
        optional: whether it may be missing or null as it is.
        repair: the value that is meant, from a value (None where it is missing or null) and its entry; None where that is in doubt.
    """

    name: str
    meaning: str
    types: frozenset[type]
    in_range: Callable[[list[Any]], bool] = lambda values: True
    optional: bool = False
    repair: Callable[[Any, dict[str, Any]], Any] = lambda value, entry: None

    def fits(self, value: Any) -> bool:
        """Whether a single value can stay as it is."""
        if value is _MISSING or (value is None and type(None) not in self.types):
            return self.optional
        return type(value) in self.types and self.in_range([value])


def check_fields(section: str, entries: list[Any], findings: Findings) -> None:
    """Checks all fields of a section and puts right, in place, what can be."""
    if set(map(type, entries)) <= {dict}:
        objects = entries
    else:
        objects = [entry if isinstance(entry, dict) else {} for entry in entries]
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                findings.add(section, position, DataFault(f"entry of '{section}' is not an object", f"{section}[{position}]", shown(entry)))
    for column in SCHEMA[section]:
        values = [entry.get(column.name, _MISSING) for entry in objects]
        types = set(map(type, values))
        if types <= column.types and column.in_range(values):
            continue
        if column.optional and types == {object}:
            continue
        for position, value in enumerate(values):
            if isinstance(entries[position], dict) and not column.fits(value):
                _repair_or_report(section, position, column, entries[position], value, findings)


def _repair_or_report(section: str, position: int, column: Field, entry: dict[str, Any], value: Any, findings: Findings) -> None:
    meant = column.repair(None if value is _MISSING else value, entry)
    where = f"{section}[{position}]"
    if meant is not None:
        entry[column.name] = meant
        findings.repairs[f"'{column.name}' {_state(value)}"] += 1
    elif value is _MISSING:
        findings.add(section, position, DataFault(f"entry of '{section}' lacks '{column.name}'", where))
    else:
        findings.add(section, position, DataFault(f"'{column.name}' of '{section}' is not {column.meaning}", where, shown(value)))


def _state(value: Any) -> str:
    """How a value that was put right stood in the file."""
    if value is _MISSING:
        return "missing"
    return "null" if value is None else f"as {_JSON_TYPES[type(value)]}"


_JSON_TYPES = {int: "whole number", float: "decimal number", str: "text", bool: "true or false", list: "list", dict: "object"}


def shown(value: Any, most: int = 60) -> str:
    """A value as it stands in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, (dict, list)) or len(value) < most else str(value)[: most + 1]
    return text if len(text) <= most else f"{text[:most]}..."


# ranges and repairs ---------------------------------------------------------------------------------------------------------------------


def _finite(values: list[Any]) -> bool:
    return _all_within(values, -math.inf)


def _all_within(values: list[Any], low: float) -> bool:
    """Whether all numbers are finite and at least ``low``."""
    try:
        column = np.fromiter(values, dtype=np.float64, count=len(values))
    except OverflowError:  # a whole number beyond 1e308
        return False
    return bool(np.isfinite(column).all() and (not column.size or column.min() >= low))


def _sides(values: list[Any]) -> bool:
    return not values or (min(values) >= 1 and max(values) <= _MAX_SIDE)


def _names(values: list[Any]) -> bool:
    """Not empty, and text that can be written to a file."""
    if not all(values):
        return False
    try:
        "\n".join(values).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _ids(values: list[Any]) -> bool:
    """Whole numbers and texts are names; so are decimal numbers, which some tools write (12.0 names what 12 names)."""
    return float not in set(map(type, values)) or _finite([value for value in values if type(value) is float])


def _whole(value: Any, entry: dict[str, Any]) -> int | None:
    return int(value) if isinstance(value, float) and value.is_integer() and 1 <= value <= _MAX_SIDE else None


def _number_as_name(value: Any, entry: dict[str, Any]) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _area_of_box(value: Any, entry: dict[str, Any]) -> float | None:
    """Only of what is missing or null. Where the box is faulty too, that is said of the box."""
    if value is not None:
        return None
    box = entry.get("bbox")
    return box[2] * box[3] if is_box(box) else 0.0


def _flag(value: Any, entry: dict[str, Any]) -> int | None:
    if value is None:
        return 0
    return int(value) if isinstance(value, (bool, float)) and value in (0, 1) else None


def is_box(value: Any) -> TypeGuard[list[float]]:
    """Whether a value is four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and set(map(type, value)) <= _NUMBER and _finite(value)


_NUMBER = frozenset({int, float})


def _id(name: str) -> Field:
    return Field(name, "a number or a text", frozenset({int, str, float}), _ids)


def _side(name: str) -> Field:
    return Field(name, "a whole number of pixels from 1 on", frozenset({int}), _sides, repair=_whole)


#: what is read of each section. Boxes are checked against their images (boxes.py), masks and keypoints apart (masks.py, keypoints.py).
SCHEMA: dict[str, tuple[Field, ...]] = {
    "images": (
        _id("id"),
        Field("file_name", "a name", frozenset({str}), _names),
        _side("width"),
        _side("height"),
    ),
    "categories": (
        _id("id"),
        Field("name", "a name", frozenset({str}), _names, repair=_number_as_name),
    ),
    "annotations": (
        _id("id"),
        _id("image_id"),
        _id("category_id"),
        Field("bbox", "a box", frozenset({list, type(None), str, int, float, bool, dict})),
        Field("area", "a finite number from 0 on", _NUMBER, lambda values: _all_within(values, 0), repair=_area_of_box),
        Field("iscrowd", "0 or 1", frozenset({int}), lambda values: set(values) <= {0, 1}, repair=_flag),
        Field("ignore", "0 (regions to ignore have 'iscrowd' 1)", frozenset({int, bool}), lambda values: not any(values), optional=True),
    ),
}
