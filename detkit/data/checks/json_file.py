"""Reads a json file that anybody may have written."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError

__all__ = ["collector_paused", "read_json", "require_regular_file"]


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a json file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        DataError: the file is missing, no regular file, unreadable, or not json; says where.
    """
    path = Path(path)
    try:
        require_regular_file(path)
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"The annotation file {path} does not exist. Correct its name (DATASETS.TRAIN_JSON, DATASETS.VAL_JSON), or for Detectron2's "
            "own datasets the environment variable DETECTRON2_DATASETS."
        ) from None
    except OSError as error:
        raise DataError(f"The annotation file {path} cannot be read: {error}.") from error
    except RecursionError:
        raise DataError(f"The annotation file {path} nests lists or objects too deeply for a COCO annotation file.") from None
    except DataError:
        raise
    except ValueError as error:  # also of undecodable text and of numbers with thousands of digits
        raise DataError(f"The annotation file {path} is not json: {_reason(error)}. It should be a COCO annotation file.") from error


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Reading a pipe or a device may never end, and a folder cannot be read.

    Raises:
        OSError: the path is something else than a regular file, or nothing.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is no regular file but a folder, a pipe or a device")


def _parsed(content: bytes) -> Any:
    if content[:2] == b"\x1f\x8b":
        raise ValueError("it is compressed by gzip, unpack it")
    if not content.strip():
        raise ValueError("it is empty")
    with collector_paused():
        return json.loads(content)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """For a function, or within it: Python's collector of garbage does not run.

    Millions of new objects, none of them garbage: looking through them again and again takes two thirds of the time of parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no text in {error.encoding.upper()}; save the file as UTF-8"
    return str(error).partition("; use sys.set_int")[0]
