"""The output folder of a run: one run at a time, room for its checkpoints, the right to write there."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detkit.checkpoint import CONFIG_FILE, LAST_CHECKPOINT, RUN_FILE, readable_size

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_FILE", "RunFolderError", "check_folder", "check_room", "folder_in_use"]

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
#: A run shows every so many seconds that it lives, by the time of its lock file.
BEAT = 10.0
#: A lock of another machine that was not renewed for as many seconds is that of a run that has ended without removing it.
STALE = 60.0
_LOG = "log.txt"
_FILES = (_LOG, "metrics.json", "results.json", CONFIG_FILE, RUN_FILE, LAST_CHECKPOINT, LOCK_FILE)
_FOLDERS = ("inference", "datasets")


class RunFolderError(OSError):
    """An output folder that cannot be used. The message names it and the remedy."""


def check_folder(folder: str | Path) -> None:
    """Makes the folder if it is missing, and looks whether a run can write what it writes there.

    Raises:
        RunFolderError: it cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}.tmp"
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        where = "is no folder" if isinstance(error, (FileExistsError, NotADirectoryError)) else "cannot be written to"
        raise RunFolderError(f"OUTPUT_DIR {folder} {where}: {_reason(error)}. Name another folder, or make room there.") from error
    for name in _FILES:
        kind = _other_than_file(folder / name)
        if kind == "folder" or (kind and name != _LOG):  # a log that goes elsewhere is a habit
            raise RunFolderError(f"{folder / name} is a {kind}, and a run writes a file of that name. Move it away.")
    for name in _FOLDERS:
        if (folder / name).is_file():
            raise RunFolderError(f"{folder / name} is a file, and a run makes a folder of that name. Move it away.")


def _other_than_file(path: Path) -> str:
    """What lies in the place of a file; "" for a file or nothing. Reading a pipe or a device may never end."""
    if not path.exists() or path.is_file():
        return ""
    return "folder" if path.is_dir() else "pipe or a device"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def check_room(folder: str | Path, *, size: int, count: int) -> None:
    """Whether checkpoints fit on the disk of a folder.

    Args:
        size: bytes of one checkpoint.
        count: how many the run will keep.

    Raises:
        RunFolderError: not even one fits.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise RunFolderError(
            f"The disk of OUTPUT_DIR {folder} has {readable_size(free)} free, and one checkpoint takes {readable_size(size)}: "
            f"{readable_size(size - free)} are missing. Make room, or name another folder."
        )
    if free < size * (count + 1):  # one more while it is being written
        logger.warning(
            "The disk of OUTPUT_DIR %s has %s free. The %d checkpoints of this run take %s: make room, or keep fewer "
            "(SOLVER.CHECKPOINT_KEEP, SOLVER.CHECKPOINT_PERIOD).",
            folder,
            readable_size(free),
            count,
            readable_size(size * count),
        )


# one run at a time -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder_in_use(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a folder meanwhile. The process that holds it may ask again.

    The lock is one of the system on ``run.lock``, which ends with the process, however that ends. File systems of several machines may
    not pass it on, so the file also says who holds it, and is touched every :data:`BEAT` seconds.

    Raises:
        RunFolderError: another run is using the folder; its process, host and start are named.
    """
    path = Path(folder).absolute() / LOCK_FILE
    if path in _held:
        yield
        return
    descriptor = _acquire(path)
    _held.add(path)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, stop), daemon=True, name="run lock")
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        _release(path, descriptor)


_held: set[Path] = set()


_before_exit: list[Callable[[], None]] = []


def before_exit(finish: Callable[[], None]) -> Callable[[], None]:
    """Calls something in a process that ends without cleaning up; returns what takes that back."""
    _before_exit.append(finish)
    return lambda: _before_exit.remove(finish)


def release_all() -> None:
    """Gives up every lock of this process, for a process that ends without cleaning up."""
    for finish in _before_exit:
        with contextlib.suppress(Exception):
            finish()
    for path in list(_held):
        _release(path, None)


def _acquire(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"{path} could not be made: {_reason(error)}. Is the right to write there?") from error
        taken = _lock(descriptor)
        holder = _read(descriptor)
        if not taken:
            os.close(descriptor)
            raise RunFolderError(_in_use(path.parent, holder))
        if _replaced(path, descriptor):  # its former holder has removed the file in between
            os.close(descriptor)
            continue
        break
    if holder is not None and (holder.get("host") != socket.gethostname() or fcntl is None):
        _wait_until_stale(path, holder)
    if holder is not None:
        logger.warning("%s was left by a run that has ended (%s): taking the folder over.", path, _who(holder))
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
    except OSError as error:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise RunFolderError(f"{path} could not be written: {_reason(error)}. Make room on the disk of {path.parent}.") from error
    return descriptor


def _lock(descriptor: int) -> bool:
    """Whether the system's lock was free; where the file system has none, what the file says has to do."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone: data workers do not inherit it
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _replaced(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return True


def _wait_until_stale(path: Path, holder: dict[str, Any]) -> None:
    """Another machine's run, of which the system's lock may know nothing here, either touches its file or has ended."""
    seen = path.stat().st_mtime_ns
    age = time.time() - seen / 1e9
    if age > 10 * STALE:
        return
    logger.warning("%s may be in use (%s): waiting %.0f s for a sign of life.", path.parent, _who(holder), STALE)
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(min(1.0, STALE / 10))
        try:
            if path.stat().st_mtime_ns != seen:
                raise RunFolderError(_in_use(path.parent, holder))
        except FileNotFoundError:
            return


def _read(descriptor: int) -> dict[str, Any] | None:
    """Who holds or held the lock; None where the file is new. (To open the file once more and to close it would give up the lock.)"""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0) or b"null")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else None


def _who(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "its process is not known"
    return f"process {holder.get('pid')} on {holder.get('host')}, started {holder.get('started')}"


def _in_use(folder: Path, holder: dict[str, Any] | None) -> str:
    return f"Another run is using OUTPUT_DIR {folder}: {_who(holder)}. Wait for its end or stop it, or name another OUTPUT_DIR."


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _release(path: Path, descriptor: int | None) -> None:
    _held.discard(path)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    if descriptor is not None:
        os.close(descriptor)
