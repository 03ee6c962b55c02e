"""The table of published weights: data in ``tables/``, one file per source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, get_type_hints

import yaml

__all__ = ["OWN_SOURCE", "ZooEntry", "ZooError", "available", "entries", "find", "of_file"]

#: of the weights that ``tools/quick_models.py`` makes
OWN_SOURCE = "detkit"
_TABLES = Path(__file__).parent / "tables"
#: how mmdetection and torchvision end the names of their files
_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")


class ZooError(ValueError):
    """A name that the model zoo does not have, or weights that it cannot give. The message says what to do."""


@dataclass(frozen=True)
class ZooEntry:
    """Published weights and the config that they belong to.

    Attributes:
        name: what they are called here.
        config: of the project, as :func:`detkit.get_config_file` takes it; it has the conventions of the weights' source. None where
            the project cannot predict as the source does; ``note`` then says why, and the file is refused wherever it is used.
        source: the repository of the code that the weights were trained with.
        page: where they are offered.
        licence: of the weights, as far as the source says.
        layout: the name of their key map.
        ap: as reported by the source, in percent; None: not reported.
        split: of COCO, on which the AP was reported.
        metric: of what the AP is: ``"box"``, ``"mask"``, ``"keypoint"``.
        address: from which the file is fetched; None: a page alone offers it, or nobody anymore.
        size: of the file in bytes, where it is known.
        sha256: of the file, in hex, where it is known.
        hash_in_name: the file's name ends with the first 8 digits of its sha256.
        proof: what shows that config and key map are right, besides the keys: ``"golden:<set>/<case>"``, outputs of the source's code for
            weights of the same kind; ``"outputs:<name>"``, the same in ``tests/model_zoo/mmdetection_outputs.json``;
            ``"peer:<package>"``, outputs of the installed package; ``"parts:<set>/<case>"``, parts of the detector alone; None: the keys
            alone.
        note: what else a user has to know.
    """

    name: str
    config: str | None
    source: str
    page: str
    licence: str
    layout: str
    split: str
    ap: float | None = None
    metric: str = "box"
    address: str | None = None
    size: int | None = None
    sha256: str | None = None
    hash_in_name: bool = False
    proof: str | None = None
    note: str | None = None

    @property
    def file_name(self) -> str | None:
        """The file's name at its source, where it is known."""
        return PurePosixPath(self.address).name if self.address else None

    @property
    def hash_prefix(self) -> str | None:
        """As many digits of the file's sha256 as are known from the table, in hex; None: none."""
        if self.sha256:
            return self.sha256
        found = _HASH.search(self.address or "") if self.hash_in_name else None
        return found[1] if found else None


@cache
def entries() -> Mapping[str, ZooEntry]:
    """All rows of the table by name, those that cannot be used here included."""
    table: dict[str, ZooEntry] = {}
    for path in sorted(_TABLES.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = content.pop("rows")
        for name, row in rows.items():
            if name in table:
                raise ZooError(f"{path}: the name '{name}' is taken by weights of {table[name].source}.")
            table[name] = _entry(f"{path}: {name}", {"name": name, **content, **row})
    return MappingProxyType(table)


def _entry(place: str, row: dict[str, Any]) -> ZooEntry:
    """A row with its types checked, as a table is edited by hand."""
    row.setdefault("config", None)
    types = get_type_hints(ZooEntry)
    known = {field.name for field in fields(ZooEntry)}
    if row.keys() - known:
        raise ZooError(f"{place} has no field {', '.join(sorted(row.keys() - known))}.")
    if isinstance(row.get("ap"), int):
        row["ap"] = float(row["ap"])
    for field, value in row.items():
        if not isinstance(value, types[field]):
            raise ZooError(f"{place}: {field} is {value!r}, which is no {types[field]}.")
    return ZooEntry(**row)


def available() -> list[str]:
    """The names of all weights that can be used here, in alphabetical order."""
    return sorted(name for name, entry in entries().items() if entry.config)


def find(name: str) -> ZooEntry:
    """The row of a name.

    Raises:
        ZooError: there is no such row; the message names those that are most like it. Or it cannot be used here.
    """
    entry = entries().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, available(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ZooError(f"The model zoo has no weights '{name}'.{hint} detkit.model_zoo.available() lists them.")
    if entry.config is None:
        raise ZooError(f"The weights '{name}' of {entry.source} cannot be used here: {entry.note}")
    return entry


def of_file(*, name: str | None = None, sha256: str | None = None) -> ZooEntry | None:
    """The row that a file belongs to, told by the file's name at its source or by its content.

    Args:
        name: of the file, without its folder. Names that say nothing (``model_final.pth``) belong to no row.
        sha256: of its content, in hex.
    """
    for entry in entries().values():
        if sha256 and entry.hash_prefix and sha256.startswith(entry.hash_prefix):
            return entry
        if name and name == entry.file_name:
            return entry
    return None
