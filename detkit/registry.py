"""Looking up a class that a config names."""

from __future__ import annotations

import difflib
from typing import Any

from fvcore.common.registry import Registry

from detkit.config import ConfigError

__all__ = ["registered"]


def registered(registry: Registry, name: str, what: str, *, key: str) -> Any:
    """The class registered as ``name``.

    Args:
        what: the registry's classes are, for the message ("label assigner").
        key: where the name stands in the config, for the message.

    Raises:
        ConfigError: no such class; names those that exist and the nearest.
    """
    known = [key for key, _ in registry]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(f"{key} is '{name}', which is no registered {what}. It has to be one of {', '.join(sorted(known))}{hint}.")
    return registry.get(name)
