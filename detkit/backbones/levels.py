"""The levels of a pyramid that a config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

from detkit.config import ConfigError

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
    if not names:
        raise ConfigError(f"{key} names no level of the pyramid; the backbone gives {sorted(shapes)}.")
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ConfigError(f"{key} names {missing}, but the backbone gives {sorted(shapes)}: change {key} or the backbone's own keys.")
    strides = [shapes[name].stride for name in names]
    if strides != sorted(set(strides)):
        raise ConfigError(f"{key} is {list(names)}, with the strides {strides}: name each level once, from fine to coarse.")
    return [shapes[name] for name in names]
