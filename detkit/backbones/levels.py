"""The levels of a pyramid that a config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

from detkit.config import ConfigError
from detkit.config.limits import allowed_values

__all__ = ["levels_named"]


def levels_named(names: Sequence[str], shapes: Mapping[str, ShapeSpec], key: str) -> list[ShapeSpec]:
    """Channels and stride of each level that a config key names.

    Args:
        names: of the levels, from fine to coarse.
        shapes: what the backbone gives, its ``output_shape()``.
        key: where the names stand, for the message.

    Raises:
        ConfigError: none is named, the backbone lacks one, or they do not go from fine to coarse.
    """
    allowed = allowed_values(names, list(shapes)) if names else "one or more levels"
    strides = [] if allowed else [shapes[name].stride for name in names]
    if allowed or strides != sorted(set(strides)):
        raise ConfigError(
            f"{key} is {list(names)}. It has to be {allowed or f'from fine to coarse, each level once; their strides are {strides}'}. "
            f"The backbone gives {', '.join(shapes)}."
        )
    return [shapes[name] for name in names]
