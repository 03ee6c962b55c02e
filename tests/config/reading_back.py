"""How the number behind a config key is read back from the object that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from detectron2.config import CfgNode

#: keys of a table that stand elsewhere in the config
WHOLE = {"TEST.DETECTIONS_PER_IMAGE"}


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
