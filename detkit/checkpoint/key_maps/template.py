"""The language of key maps: templates of state-dict keys with placeholders.

A template is a key in which one component or a part of it may vary:

- ``{i}``, ``{3i}``, ``{3i+1}``, ``{i-1}``: an integer, as a linear function of the one-letter variable ``i``. ``{3i+1}`` fits 1, 4, 7, ...
  and sets i to 0, 1, 2, ...
- ``{param}``: one component without dots (a name of two or more letters).
- ``{...}``: the rest, with dots.

So ``{"cls_tower.{3i}.{param}": "tower.{i}.{param}"}`` renames ``cls_tower.6.bias`` to ``tower.2.bias``.
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["fill", "match"]

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_LINEAR = re.compile(r"(\d*)([a-z])([+-]\d+)?")


def match(template: str, key: str) -> dict[str, int | str] | None:
    """The values of the placeholders with which a template becomes the key, or None."""
    pattern, names = _compiled(template)
    found = pattern.fullmatch(key)
    if found is None:
        return None
    values: dict[str, int | str] = {}
    for name, text in zip(names, found.groups(), strict=True):
        linear = _LINEAR.fullmatch(name)
        if linear is None:
            values[name] = text
            continue
        factor, variable, shift = _coefficients(linear)
        value, remainder = divmod(int(text) - shift, factor)
        if remainder or value < 0 or values.setdefault(variable, value) != value:
            return None
    return values


def fill(template: str, values: dict[str, int | str]) -> str:
    """The key that a template becomes with these values."""

    def text(placeholder: re.Match[str]) -> str:
        linear = _LINEAR.fullmatch(placeholder[1])
        if linear is None:
            return str(values[placeholder[1]])
        factor, variable, shift = _coefficients(linear)
        return str(factor * int(values[variable]) + shift)

    return _PLACEHOLDER.sub(text, template)


def _coefficients(linear: re.Match[str]) -> tuple[int, str, int]:
    return int(linear[1] or 1), linear[2], int(linear[3] or 0)


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    names = tuple(_PLACEHOLDER.findall(template))
    literals = _PLACEHOLDER.split(template)[::2]
    groups = [r"(.+)" if name == "..." else r"(\d+)" if _LINEAR.fullmatch(name) else r"([^.]+)" for name in names]
    pattern = "".join(re.escape(text) + group for text, group in zip(literals, [*groups, ""], strict=True))
    return re.compile(pattern), names
