"""Sections of a config that know where they stand, so that a value that cannot be is refused by its whole key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from detectron2.config import CfgNode

from .reader import ConfigError

__all__ = ["Limit", "Section"]

Value = TypeVar("Value")

#: what a value may be: an interval such as ``"(0, 1)"`` (without the ends), ``"[0, 1]"`` (with them) or ``"[1, inf)"``, in which every
#: number of a list has to lie; or the words to choose from
Limit = str | Sequence[str]


class Section:
    """Reads a section of a config: ``Section(cfg, "MODEL.FCOS").TEST.NMS_THRESH``. Sections below it are sections again.

    Parts check the keys that they read where they are built; a refusal is a :class:`ConfigError` that names the whole key, the value, what
    is allowed and, of words, the nearest one.

    Args:
        cfg: the whole config.
        path: dotted name of the section.
    """

    def __init__(self, cfg: CfgNode, path: str) -> None:
        node = cfg
        for name in path.split("."):
            node = node[name]
        self._node: CfgNode = node
        self.path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._node:
            raise AttributeError(f"{self.path} has no key {name}")
        value = self._node[name]
        return _below(value, f"{self.path}.{name}") if isinstance(value, CfgNode) else value

    def __contains__(self, name: str) -> bool:
        return name in self._node

    def value(self, key: str) -> Any:
        """The value of a dotted key below the section."""
        value: Any = self._node
        for name in key.split("."):
            value = value[name]
        return value

    def refusal(self, key: str, allowed: str) -> ConfigError:
        """The error for a value that cannot be; ``allowed`` completes "It has to be ..."."""
        return ConfigError(f"{self.path}.{key} is {self.value(key)!r}. It has to be {allowed}.")

    def choice(self, key: str, options: Mapping[str, Value]) -> Value:
        """The option that a key names.

        Raises:
            ConfigError: it names none.
        """
        self.check({key: tuple(options)})
        return options[self.value(key)]

    def check(self, limits: Mapping[str, Limit]) -> None:
        """Checks values against their limits, by dotted key below the section.

        Raises:
            ConfigError: a value lies outside its interval or is none of the words.
        """
        for key, limit in limits.items():
            value = self.value(key)
            if isinstance(limit, str):
                numbers = value if isinstance(value, (list, tuple)) else [value]
                if not all(_within(number, limit) for number in numbers):
                    raise self.refusal(key, f"in {limit}")
            elif value not in limit:
                near = difflib.get_close_matches(str(value), limit, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise self.refusal(key, f"one of {', '.join(map(repr, limit))}{hint}")


def _below(node: CfgNode, path: str) -> Section:
    section = Section.__new__(Section)
    section._node, section.path = node, path
    return section


def _within(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (number > low or (interval[0] == "[" and number == low)) and (number < high or (interval[-1] == "]" and number == high))
