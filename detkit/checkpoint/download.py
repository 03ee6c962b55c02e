"""Files of weights from the network: fetched once, checked, and kept.

What is at an address lies afterwards in a folder of its own below ``weights/`` in ``$FVCORE_CACHE`` (without it ``~/.torch/iopath_cache``,
as everywhere in Detectron2). The folder is named by the whole address, so that files of two hosts are never taken for each other. A file
appears there whole and checked, or not at all; of a download that breaks off a part stays beside it, from which the next one goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from detectron2.utils.file_io import PathHandler, PathManager
from filelock import FileLock, Timeout
from iopath.common.file_io import OneDrivePathHandler

from .errors import CheckpointError
from .transfer import InterruptedTransferError, Patience, RefusedError, Source, transfer

__all__ = ["DownloadHandler", "cached_file", "fetch"]

logger = logging.getLogger(__name__)

_SCHEMES = ("https", "http", "ftp")
#: hosts whose files carry the first digits of their SHA-256 in their names
_HASHED_NAMES = {"download.pytorch.org": r"-([0-9a-f]{8,64})\.\w+$", "download.openmmlab.com": r"[-_]([0-9a-f]{8,64})\.\w+$"}
_PIN = ".pin.json"  # no file that is fetched begins with a dot
_ONE_DRIVE = OneDrivePathHandler.ONE_DRIVE_PREFIX


@dataclass(frozen=True)
class _Pin:
    """What a file was when it came for the first time."""

    address: str
    sha256: str
    size: int
    time: str


def fetch(address: str, *, sha256: str | None = None, size: int | None = None) -> Path:
    """The local copy of a file on the network; downloaded where there is none yet.

    Processes that ask for the same file at once download it once. How long a server may take is said by environment variables:
    ``DETKIT_CONNECT_TIMEOUT`` (seconds until it answers, 20), ``DETKIT_READ_TIMEOUT`` (seconds without data, 30) and
    ``DETKIT_DOWNLOAD_ATTEMPTS`` (3), so a server that is silent is given up after about two minutes.

    Args:
        address: ``https://``, ``http://`` or ``ftp://``. Redirects are followed, but not from https to anything else.
        sha256: that the file must have, or its first digits (8 or more). None: what came at the first download is remembered
            beside the file and asked for ever after; of hosts that put digits into their file names these are checked as well.
        size: in bytes, that the file must have; None where it is not known.

    Returns:
        path of the file. Its name is that of the address, so the suffix says the format.

    Raises:
        CheckpointError: the address is of another kind, the server cannot be reached, refuses, stalls, or gives something else than
            a file of weights or than what is asked for. Names address and remedy.
    """
    _check_address(address)
    if sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", sha256):
        raise ValueError(f"sha256 is {sha256!r}. It has to be 8 to 64 hexadecimal digits in lower case.")
    path = cached_file(address)
    expected = sha256 or _hash_in_name(address, path.name)
    if path.is_file():
        return _checked(path, address, expected, size)
    patience = Patience.from_environment()
    folder = path.parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_process(path, patience):
            if not path.is_file():  # another process may have been faster
                folder.mkdir(exist_ok=True)
                try:
                    _download(address, path, expected, size, patience)
                finally:
                    with contextlib.suppress(OSError):  # not empty: there is a file, or a part to go on from
                        folder.rmdir()
            return _checked(path, address, expected, size)
    except OSError as error:
        raise CheckpointError(
            f"'{address}' could not be kept: {error}. Is there room in {folder}, and the right to write there? The environment "
            "variable FVCORE_CACHE names another folder for downloads."
        ) from None


def cached_file(address: str) -> Path:
    """Where the file of an address lies once it has been fetched, and where it may be put by hand."""
    parts = urlsplit(address)
    root = Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    host = re.sub(r"[^\w.-]", "_", (parts.hostname or "").lower())[:60]
    name = re.sub(r"[^\w.+-]", "_", unquote(parts.path).rpartition("/")[2]).lstrip(".") or "download"
    return root / "weights" / f"{host}-{key}" / name[-120:]


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable, parts = False, None
    if not usable or re.search(r"[\s\x00-\x1f]", address):
        raise CheckpointError(f"'{address}' is no address of a file: it has to look like 'https://host/file.pth'.")
    if parts is not None and parts.username is not None:
        raise CheckpointError(f"The address at {parts.hostname} holds a user's name. Fetch the file yourself and name it by its path.")


def _hash_in_name(address: str, name: str) -> str | None:
    pattern = _HASHED_NAMES.get(urlsplit(address).hostname or "")
    found = re.search(pattern, name) if pattern else None
    return found.group(1) if found else None


def _download(address: str, path: Path, sha256: str | None, size: int | None, patience: Patience) -> None:
    direct = OneDrivePathHandler().create_one_drive_direct_download(address) if address.startswith(_ONE_DRIVE) else address
    part = path.with_name(f".{path.name}.part")
    pin = _read_pin(path)
    expected = sha256 or (pin.sha256 if pin else None)
    logger.info("Downloading %s", address)
    try:
        transfer(Source(direct, name=path.name, sha256=expected, size=size), part, patience)
    except RefusedError as error:
        since = f" Since {pin.time} it is known as another file; if it was renewed, remove {path.parent}." if pin and not sha256 else ""
        raise CheckpointError(f"'{address}' is not taken: {error}{since if error.other_content else ''} Nothing of it was kept.") from None
    except InterruptedTransferError as error:
        raise CheckpointError(
            f"'{address}' could not be fetched: {error}. Try again, it goes on where it stopped. Without a network, put the file at {path}"
        ) from None
    _write_pin(path, address, part)
    os.replace(part, path)
    logger.info("Downloaded %s: %d bytes, in %s", address, path.stat().st_size, path)


def _checked(path: Path, address: str, sha256: str | None, size: int | None) -> Path:
    """The file if it is what it has to be. What was put there by hand is remembered as what it is."""
    pin = _read_pin(path)
    found = _sha256(path)
    if pin is None:
        with contextlib.suppress(OSError):  # a cache that can be read only
            _write_pin(path, address, path)
    faults = [
        f"its SHA-256 begins with {found[: max(len(sha256), 8)]} and should with {sha256}"
        if sha256 and not found.startswith(sha256)
        else "",
        f"its SHA-256 is {found[:8]}... and was {pin.sha256[:8]}... when it came on {pin.time}" if pin and found != pin.sha256 else "",
        f"it has {path.stat().st_size} bytes and should have {size}" if size not in (None, path.stat().st_size) else "",
    ]
    fault = next(filter(None, faults), None)
    if fault:
        raise CheckpointError(f"{path} is not what '{address}' stands for: {fault}. Remove the file, and it is downloaded again.")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_pin(path: Path) -> _Pin | None:
    try:
        return _Pin(**json.loads((path.parent / _PIN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{path.parent / _PIN} is broken. Remove {path.parent}, and the file is downloaded again.") from None


def _write_pin(path: Path, address: str, content: Path) -> None:
    if _read_pin(path) is not None:
        return
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    pin = _Pin(address, _sha256(content), content.stat().st_size, now)
    temporary = path.with_name(f"{_PIN}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(pin), indent=1), encoding="utf-8")
    os.replace(temporary, path.parent / _PIN)


@contextlib.contextmanager
def _one_process(path: Path, patience: Patience) -> Iterator[None]:
    """Waits while another process downloads the file, as long as that goes on."""
    lock = FileLock(f"{path.parent}.lock")
    part = path.with_name(f".{path.name}.part")
    before, quiet_since = -1, time.monotonic()
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=1, poll_interval=0.05)
            break
        size = part.stat().st_size if part.exists() else 0
        if size != before:
            before, quiet_since = size, time.monotonic()
        elif time.monotonic() - quiet_since > 2 * patience.at_most:
            raise CheckpointError(
                f"Another process has been downloading {path.name} for long without getting on. End it, and start again ({lock.lock_file})."
            )
    try:
        yield
    finally:
        lock.release()


class DownloadHandler(PathHandler):
    """Lets Detectron2's ``PathManager`` fetch through :func:`fetch`, whoever asks it; ``detectron2://`` and ``catalog://`` lead here."""

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{scheme}://" for scheme in _SCHEMES] + [_ONE_DRIVE]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        if force:
            cached_file(path).unlink(missing_ok=True)
        return str(fetch(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> IO[str] | IO[bytes]:
        if mode not in ("r", "rb"):
            raise OSError(f"'{path}' can be read only, not opened with mode '{mode}'.")
        return open(fetch(path), mode)


PathManager.register_handler(DownloadHandler(), allow_override=True)
