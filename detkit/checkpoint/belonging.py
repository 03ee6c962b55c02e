"""Whether weights belong to the config of a model: names and shapes alone do not tell.

mmdetection's PAA fits its ATSS key by key, Detectron2's RetinaNet that of the official ATSS, and no box is right. So published weights
are bound to the config of their row in the model zoo: by a mark in what the zoo has converted, by the name or content of a file, and by
its layout.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, MutableMapping
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from detkit.config import Conventions, get_cfg
from detkit.config_files import get_config_file
from detkit.model_zoo import ZooEntry, entries, of_file

from .errors import CheckpointError
from .key_maps import OURS

__all__ = ["MARK", "conventions_of", "mark_of", "sha256_of", "take_mark", "what_speaks_against", "without_mark"]

#: entry of a state dict that names the weights' row of the model zoo, as bytes of text
MARK = "detkit.zoo_name"


@cache
def conventions_of(entry: ZooEntry) -> Conventions | None:
    """Those of the config that a row of the model zoo belongs to; None for a row without one."""
    if entry.config is None:
        return None
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(entry.config))
    return Conventions.of(cfg)


def mark_of(name: str) -> Tensor:
    """The mark of a row's weights, a tensor, since Detectron2's checkpointer hands nothing else on."""
    return torch.tensor(list(json.dumps({"name": name}).encode()), dtype=torch.uint8)


def take_mark(state_dict: MutableMapping[str, object]) -> str | None:
    """Takes the mark out of a state dict: the name of the row that it is of, or None.

    Raises:
        CheckpointError: there is a mark that cannot be read.
    """
    mark = state_dict.pop(MARK, None)
    if mark is None:
        return None
    try:
        return str(json.loads(bytes(mark.tolist()))["name"])  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError, KeyError):
        raise CheckpointError(f"The entry '{MARK}' of the checkpoint is not what the model zoo writes there.") from None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file's content, in hex."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def what_speaks_against(model: nn.Module, layout: str, *, source: str | None = None, name: str | None = None) -> str | None:
    """Why predictions with these weights would be wrong although they fit: they mean something else than the model's config says.

    Weights that the model zoo knows, by a mark, a file's name or its content, have to share the conventions of their row's config; those
    in the layout of a source, the conventions of some weights that it has published.

    Args:
        model: one that knows the conventions of its config; of any other nothing is known.
        layout: that the weights had, by the name of its key map. Files with our names are not looked up by their content.
        source: file or address of the weights, by which they may be told.
        name: of the weights' row in the model zoo, where it is known.

    Returns:
        the message for an error, which names the keys that differ and the config that the weights belong to; None: nothing.
    """
    ours: Conventions | None = getattr(model, "conventions", None)
    if ours is None or (name is None and layout == OURS.name):
        return None
    entry = entries().get(name) if name else _entry_of(source)
    if entry is None:
        return _against_layout(ours, layout, source)
    what = f"'{entry.name}' of the model zoo"
    if source is not None and entry.name not in source:
        what = f"{source} ({what})"
    needed = conventions_of(entry)
    if needed is None:
        return f"{what} cannot be used here: {entry.note}"
    differences = list(ours.differences(needed))
    if not differences:
        return None
    return (
        f"{what} does not belong to this config, so predictions would be wrong without any sign of it: {_listed(differences)}. "
        f"Its config is {entry.config}: detkit.model_zoo.get_config('{entry.name}')"
    )


def _against_layout(ours: Conventions, layout: str, source: str | None) -> str | None:
    found: dict[ZooEntry, list[str]] = {}
    for entry in entries().values():
        needed = conventions_of(entry) if entry.layout == layout else None
        if needed is not None:
            found[entry] = list(ours.differences(needed))
            if not found[entry]:
                return None
    if not found:
        return None
    nearest = min(found, key=lambda entry: len(found[entry]))
    return (
        f"{source or 'The file'} has the layout of {layout}, and no weights that were published in it belong to this config. The "
        f"nearest are '{nearest.name}', whose config is {nearest.config}: {_listed(found[nearest])}. Predictions would be wrong without "
        "any sign of it. If the weights were trained with these settings, say so by giving them our names: "
        "python tools/convert.py FILE OUT --config-file CONFIG"
    )


def _entry_of(source: str | None) -> ZooEntry | None:
    """The row that a file or an address is of, by its name, or by its content where it lies here."""
    if source is None:
        return None
    entry = of_file(name=PurePosixPath(urlsplit(source).path).name if "://" in source else Path(source).name)
    return of_file(sha256=sha256_of(source)) if entry is None and os.path.isfile(source) else entry


def _listed(differences: list[str], limit: int = 4) -> str:
    more = f", and {len(differences) - limit} more" if len(differences) > limit else ""
    return "; ".join(differences[:limit]) + more


def without_mark(state_dict: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
    """A copy of a state dict without its mark, and the name in it."""
    copy = dict(state_dict)
    return copy, take_mark(copy)
