"""Sections of a config that know where they stand, so that a value that cannot be is refused by its whole key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from detectron2.config import CfgNode

from .defaults import default_value
from .limits import Limit, allowed_values
from .reader import ConfigError

__all__ = ["Section"]

Value = TypeVar("Value")


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

    def __iter__(self) -> Iterator[str]:
        return iter(self._node)

    def items(self) -> Iterator[tuple[str, Any]]:
        """The keys of the section itself and their values, sections below it left out."""
        return ((name, value) for name, value in self._node.items() if not isinstance(value, CfgNode))

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
            allowed = allowed_values(self.value(key), limit)
            if allowed:
                raise self.refusal(key, allowed)

    def refuse_unread(self, keys: Sequence[str], reader: str) -> None:
        """Refuses keys that were set though the chosen part does not read them.

        Args:
            keys: dotted, below the section.
            reader: the part, for the message.

        Raises:
            ConfigError: a key has another value than by default.
        """
        for key in keys:
            default = default_value(f"{self.path}.{key}", self.value(key))
            if self.value(key) != default:
                raise ConfigError(f"{self.path}.{key} is {self.value(key)!r}, but {reader} does not read it. Leave it at {default!r}.")


def _below(node: CfgNode, path: str) -> Section:
    section = Section.__new__(Section)
    section._node, section.path = node, path
    return section
