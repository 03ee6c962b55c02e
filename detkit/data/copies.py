"""Corrected copies of annotation files, which are not written before a start has been accepted."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .checks import AnnotationFile, share_annotations

__all__ = ["forget_copies", "hold_copy", "write_copies"]

#: what is to be written, by path
_HELD: dict[Path, dict[str, Any]] = {}


def hold_copy(name: str, content: dict[str, Any], output_dir: str) -> Path:
    """Gives a copy of the annotations of a dataset a place, ``<output_dir>/datasets/<name>.json``, without writing it.

    Whoever reads that file in this process gets the content all the same.
    """
    path = (Path(output_dir) / "datasets" / f"{name}.json").absolute()
    _HELD[path] = content
    share_annotations(AnnotationFile(path, content))
    return path


def write_copies() -> None:
    """Writes what is held, never half.

    Raises:
        OSError: a file cannot be written.
    """
    for path, content in list(_HELD.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
        os.replace(unfinished, path)
        share_annotations(AnnotationFile(path, content))
        del _HELD[path]


def forget_copies() -> None:
    """Forgets what an earlier start has held, which was not accepted."""
    _HELD.clear()
