"""Weights of the model zoo as files of ours: ``detkit://NAME`` wherever Detectron2's ``PathManager`` opens files.

The published file is fetched (its content is remembered, so that it cannot change unnoticed), checked, fitted to the config of its row with
nothing left over, and written to the cache as plain tensors under our names. So whoever reads it, Detectron2's checkpointer included,
finds a safe file and a mark of what it belongs to.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir

from detkit.model_zoo import OWN_SOURCE, SCHEME, ZooError, find, get_checkpoint_url, made_file

from .convert import convert_file
from .download import fetch
from .errors import CheckpointError

__all__ = ["add_zoo_file", "converted_file", "zoo_file", "zoo_folder"]

logger = logging.getLogger(__name__)

#: of what is written, in the names of converted files; to be raised where key maps or values change what they mean
_VERSION = 1


def zoo_folder() -> Path:
    """Where converted weights lie: below the cache of Detectron2, which ``FVCORE_CACHE`` moves."""
    return Path(get_cache_dir()) / "detkit" / "zoo"


def zoo_file(name: str) -> Path:
    """The weights of a row of the model zoo as a file of ours, made at first use.

    Args:
        name: of the row.

    Raises:
        CheckpointError: they could not be fetched, or they are not what they should be.
        ZooError: there is no such row, or no program can fetch its weights.
    """
    entry = find(name)
    path = converted_file(name)
    if path.is_file():
        return path
    if entry.source == OWN_SOURCE and made_file(name).is_file():
        return add_zoo_file(name, made_file(name))
    address = get_checkpoint_url(name)
    logger.info("Weights '%s' of %s, licence: %s", name, entry.source, entry.licence)
    return add_zoo_file(name, fetch(address, sha256=entry.hash_prefix, size=entry.size))


def add_zoo_file(name: str, file: str | os.PathLike[str]) -> Path:
    """Converts a published file and puts it into the cache under the name of its row.

    Args:
        name: of the row.
        file: as its source has published it.

    Returns:
        the converted file.

    Raises:
        CheckpointError: it is not the file of the row, or does not fit its config in full.
        ZooError: there is no such row.
    """
    path = converted_file(find(name).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    convert_file(file, path, name=name)
    return path


def converted_file(name: str) -> Path:
    """Where the converted file of a row lies."""
    return zoo_folder() / f"{name}-{_VERSION}.pth"


class _ZooHandler(PathHandler):
    """``detkit://NAME``: a local file of converted weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **_: Any) -> str:
        try:
            return str(zoo_file(path.removeprefix(SCHEME)))
        except ZooError as error:
            raise CheckpointError(str(error)) from None

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        if mode not in ("r", "rb"):
            raise OSError(f"{path} can be read only.")
        return open(self._get_local_path(path), mode, buffering=buffering)

    def _exists(self, path: str, **_: Any) -> bool:
        return converted_file(path.removeprefix(SCHEME)).is_file()

    def _isfile(self, path: str, **_: Any) -> bool:
        return self._exists(path)


PathManager.register_handler(_ZooHandler(), allow_override=True)
