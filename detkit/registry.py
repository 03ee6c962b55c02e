"""Looking up a class that a config names."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry

from detkit.config import ConfigError
from detkit.config.limits import allowed_values

__all__ = ["registered"]


def registered(registry: Registry, name: str, what: str, *, key: str) -> Any:
    """The class registered as ``name``.

    Args:
        what: the registry's classes are, for the message ("label assigner").
        key: the config key that holds the name, for the message.

    Raises:
        ConfigError: no such class; names those that exist and the nearest.
    """
    allowed = allowed_values(name, sorted(known for known, _ in registry))
    if allowed:
        raise ConfigError(f"{key} is {name!r}, which is no registered {what}. It has to be {allowed}.")
    return registry.get(name)
