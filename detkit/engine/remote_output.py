"""An OUTPUT_DIR on a storage that is no folder: ``s3://``, ``gs://``, ``memory://`` and whatever else fsspec opens.

A run works in a folder of this machine, and what it writes there is copied to the storage: checkpoints as they appear, the rest once a
minute and at the end. A file stands there whole or not at all, and ``last_checkpoint`` names a checkpoint that has arrived. What a run
resumes from is fetched first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from detkit.checkpoint import LAST_CHECKPOINT
from detkit.config import ConfigError
from detkit.engine.run_folder import LOCK_FILE, before_exit

__all__ = ["is_remote", "mirrored", "working_folder"]

logger = logging.getLogger(__name__)

#: seconds between two looks for new files; logs are copied less often
_LOOK, _LOGS = 5.0, 60.0
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_GROWING = ("log.txt", "metrics.json", "events.out")


def is_remote(output_dir: str) -> bool:
    """Whether it is an address and not a path."""
    return bool(_ADDRESS.match(output_dir))


def working_folder(address: str) -> Path:
    """Where on this machine the run works: below ``~/.cache/detkit/runs``, always the same for an address."""
    name = address.rstrip("/").rpartition("/")[2] or "run"
    return Path.home() / ".cache" / "detkit" / "runs" / f"{name}-{hashlib.sha256(address.rstrip('/').encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def mirrored(address: str, folder: Path, *, send: bool) -> Iterator[None]:
    """Fetches what the storage has of a run, and keeps the storage up to date meanwhile.

    Args:
        address: of the OUTPUT_DIR.
        folder: the working folder.
        send: whether this process is the one that copies to the storage.

    Raises:
        ConfigError: the address cannot be opened.
    """
    mirror = _Mirror(address, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # workers of a machine share the folder
        mirror.fetch()
    if not send:
        yield
        return
    stop = threading.Event()

    def keep_up() -> None:
        while not stop.wait(_LOOK):
            mirror.send()

    thread = threading.Thread(target=keep_up, daemon=True, name="mirror of OUTPUT_DIR")
    thread.start()

    def finish() -> None:
        stop.set()
        mirror.send(everything=True)

    forget = before_exit(finish)
    try:
        yield
    finally:
        stop.set()
        thread.join()
        forget()
        mirror.send(everything=True)


class _Mirror:
    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder
        try:
            self._storage, self._root = fsspec.core.url_to_fs(address.rstrip("/"))
            self._storage.exists(self._root)
        except Exception as error:  # of any storage
            raise ConfigError(f"OUTPUT_DIR {address} cannot be opened: {error or type(error).__name__}") from error
        self._sent: dict[str, tuple[int, int]] = {}
        self._logs_at, self._warned = 0.0, False
        self._lock = threading.Lock()

    def fetch(self) -> None:
        """What is new there: all but detections and checkpoints that are not the last."""
        for path in self._storage.find(self._root) if self._storage.exists(self._root) else ():
            name = path[len(self._root) :].lstrip("/")
            if "/" not in name and not name.endswith((".pth", ".part")) and name != LOCK_FILE:
                self._get(name)
        named = self._folder / LAST_CHECKPOINT
        if named.is_file() and not (self._folder / named.read_text().strip()).is_file():
            self._get(named.read_text().strip())
        self._sent = {name: _stamp(self._folder / name) for name in self._names() if self._same_there(name)}

    def _get(self, name: str) -> None:
        part = self._folder / f".{name}.part"
        self._storage.get_file(f"{self._root}/{name}", str(part))
        part.replace(self._folder / name)

    def _same_there(self, name: str) -> bool:
        there = f"{self._root}/{name}"
        return self._storage.exists(there) and self._storage.size(there) == (self._folder / name).stat().st_size

    def send(self, *, everything: bool = False) -> None:
        """Copies what is new here. A storage that fails is warned about once, and tried again."""
        with self._lock:
            try:
                self._send(everything or time.monotonic() - self._logs_at > _LOGS)
                self._warned = False
            except Exception as error:  # of any storage
                if not self._warned:
                    logger.warning("OUTPUT_DIR %s does not take files (%s); they stay in %s.", self._address, error, self._folder)
                self._warned = True

    def _send(self, logs: bool) -> None:
        names = sorted(self._names(), key=lambda name: name == LAST_CHECKPOINT)  # it comes after the checkpoint that it names
        for name in names:
            if name.startswith(_GROWING) and not logs:
                continue
            with contextlib.suppress(FileNotFoundError):  # pruned in between
                stamp = _stamp(self._folder / name)
                if self._sent.get(name) != stamp:
                    self._put(name)
                    self._sent[name] = stamp
        if logs:
            self._logs_at = time.monotonic()
        for name in [name for name in self._sent if not (self._folder / name).exists()]:
            del self._sent[name]
            with contextlib.suppress(FileNotFoundError):
                self._storage.rm_file(f"{self._root}/{name}")

    def _put(self, name: str) -> None:
        there = f"{self._root}/{name}"
        self._storage.makedirs(there.rpartition("/")[0], exist_ok=True)
        self._storage.put_file(str(self._folder / name), f"{there}.part")
        self._storage.mv(f"{there}.part", there)

    def _names(self) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return [path.relative_to(self._folder).as_posix() for path in found if path.name != LOCK_FILE]


def _stamp(path: Path) -> tuple[int, int]:
    state: Any = path.stat()
    return state.st_mtime_ns, state.st_size
