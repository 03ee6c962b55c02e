"""Files and folders on storages that fsspec opens (``s3://``, ``gs://``, ``memory://``), also through Detectron2's ``PathManager``.

What is read is copied to this machine once, below ``~/.cache/detkit/storage``, and again when it has changed there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import fsspec
from detectron2.utils.file_io import PathHandler, PathManager
from filelock import FileLock
from fsspec.registry import known_implementations

__all__ = ["StorageError", "is_on_storage", "local_copy"]

#: what stores files under names; fsspec also knows addresses of archives, repositories and web pages
_STORAGES = ("abfs", "adl", "az", "gcs", "gs", "hdfs", "memory", "oss", "s3", "s3a", "sftp", "smb", "ssh", "webdav", "webhdfs")


class StorageError(OSError):
    """A storage that cannot be read. The message names the address and the remedy."""


def _installed() -> list[str]:
    """The beginnings of addresses whose package is there."""
    packages = {name: known_implementations[name]["class"].partition(".")[0] for name in _STORAGES if name in known_implementations}
    return [f"{name}://" for name, package in packages.items() if importlib.util.find_spec(package) is not None]


_PREFIXES = tuple(_installed())


def is_on_storage(path: str) -> bool:
    """Whether a path is an address of a storage that can be opened here."""
    return path.startswith(_PREFIXES)


def local_copy(address: str) -> Path:
    """The copy of a file or of a whole folder on this machine. Processes that ask at once copy once.

    Raises:
        StorageError: there is no such file, or the storage cannot be opened.
    """
    try:
        storage, path = fsspec.core.url_to_fs(address.rstrip("/"))
        found = {name: storage.ukey(name) for name in storage.find(path)}
    except Exception as error:  # of any storage
        raise StorageError(f"{address} cannot be read: {error or type(error).__name__}") from error
    if not found:
        raise StorageError(f"{address}: there is no such file or folder.")
    folder = Path.home() / ".cache" / "detkit" / "storage" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
    root = folder / path.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        known = folder / ".known.json"
        before = json.loads(known.read_text()) if known.is_file() else {}
        for name in found:
            local = _below(root, name[len(path) :])
            if before.get(name) != found[name] or not local.exists():
                local.parent.mkdir(parents=True, exist_ok=True)
                part = local.with_name(f".{local.name}.part")
                storage.get_file(name, str(part))
                part.replace(local)
        known.write_text(json.dumps(found))
    return root


def _below(root: Path, name: str) -> Path:
    """The place of a file; names come from elsewhere and must not lead out of the folder."""
    local = root / name.lstrip("/")
    if ".." in local.parts:
        raise StorageError(f"{name}: not copied, for it leads out of its folder.")
    return local


class _StorageHandler(PathHandler):
    """Lets Detectron2's ``PathManager`` read from storages."""

    def _get_supported_prefixes(self) -> list[str]:
        return list(_PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **_: Any) -> str:
        return str(local_copy(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        return fsspec.open(path, mode).open()

    def _storage(self, path: str) -> tuple[Any, str]:
        return fsspec.core.url_to_fs(path)

    def _exists(self, path: str, **_: Any) -> bool:
        storage, name = self._storage(path)
        return storage.exists(name)

    def _isfile(self, path: str, **_: Any) -> bool:
        storage, name = self._storage(path)
        return storage.isfile(name)

    def _isdir(self, path: str, **_: Any) -> bool:
        storage, name = self._storage(path)
        return storage.isdir(name)

    def _ls(self, path: str, **_: Any) -> Iterable[str]:
        storage, name = self._storage(path)
        return [each.rpartition("/")[2] for each in storage.ls(name, detail=False)]


PathManager.register_handler(_StorageHandler(), allow_override=True)
