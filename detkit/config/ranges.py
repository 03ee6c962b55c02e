"""Numbers of a config that have to lie in a range, said before anything is built."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode

from .reader import ConfigError

__all__ = ["check_ranges"]


def check_ranges(node: CfgNode, path: str, ranges: Mapping[str, str]) -> None:
    """Every number lies in its interval.

    Args:
        node: the section of the config whose keys are looked up.
        path: where it stands, for the message, such as ``"MODEL.LSNET"``.
        ranges: intervals by key below the section, as mathematics writes them: ``"(0, 1)"`` without and ``"[0, 1]"`` with the ends,
            ``"[1, inf)"``. Of a list every number is meant.

    Raises:
        ConfigError: a number lies outside; names key, value and interval.
    """
    for key, interval in ranges.items():
        value = node
        for part in key.split("."):
            value = value[part]
        if not all(_within(number, interval) for number in (value if isinstance(value, (list, tuple)) else [value])):
            raise ConfigError(f"{path}.{key} is {value}; it has to lie in {interval}.")


def _within(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (number > low or (interval[0] == "[" and number == low)) and (number < high or (interval[-1] == "]" and number == high))
