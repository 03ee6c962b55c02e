"""What is wrong with data, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["DataError", "DataFault", "describe_faults"]

_EXAMPLES = 5  # named per kind of fault
_LONGEST = 200  # characters that are shown of an offender


class DataError(ValueError):
    """Data that cannot be used. The message names the file, the offenders and the remedy."""


@dataclass(frozen=True)
class DataFault:
    """One thing that is wrong.

    Attributes:
        kind: what, in words that can stand as a heading: "image file is missing".
        where: the offender: a file name, a position in the annotation file.
        detail: more about this one, or "".
    """

    kind: str
    where: str
    detail: str = ""


def describe_faults(faults: Sequence[DataFault]) -> str:
    """Counts per kind and the first few offenders of each, one per line."""
    lines = []
    for kind, group in groupby(sorted(faults, key=lambda fault: fault.kind), key=lambda fault: fault.kind):
        offenders = list(group)
        lines.append(f"  {kind}: {len(offenders)}")
        for fault in offenders[:_EXAMPLES]:
            lines.append("    " + ": ".join(_shortened(part) for part in (fault.where, fault.detail) if part))
        if len(offenders) > _EXAMPLES:
            lines.append(f"    and {len(offenders) - _EXAMPLES} more")
    return _printable("\n".join(lines))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _printable(text: str) -> str:
    """Without characters that no terminal can show: halves of surrogate pairs, which JSON allows."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
