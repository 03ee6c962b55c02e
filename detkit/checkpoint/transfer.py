"""Getting bytes over HTTP into a file: in parts, within time limits, and only the right ones."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import queue
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm import tqdm

__all__ = ["InterruptedTransferError", "Patience", "RefusedError", "Source", "transfer"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_BLOCK = 1 << 16
#: bytes that have to come within the read timeout: a server that sends single bytes is as good as silent
_LEAST = 1024
#: bytes that are enough to tell what a file is
_SIGNATURE = 9
#: bytes that no file of weights has
_MOST = 100 * 10**9
#: seconds between two lines of progress where there is no terminal
_LINE_EVERY = 10.0
#: codes of answers after which it may help to ask again
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PAGE = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
#: how files begin, by suffix; of ``torch.save``: a zip archive, a pickle, a tar archive with this first entry
_STARTS = {
    **dict.fromkeys((".pth", ".pt", ".pyth", ".ckpt"), re.compile(rb"^(?:PK|\x80|sys_info|pickle|storages|tensors|\./)")),
    ".safetensors": re.compile(rb"^.{8}\{", re.DOTALL),
    ".pkl": re.compile(rb"^[\x80(\]}c]"),
}


class RefusedError(Exception):
    """The server gives something else than what is asked for; asking again does not help.

    Attributes:
        other_content: it gave a whole file, but another one.
    """

    def __init__(self, message: str, *, other_content: bool = False) -> None:
        super().__init__(message)
        self.other_content = other_content


class InterruptedTransferError(Exception):
    """The transfer has not come to its end; it may be taken up again."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        connect: seconds from the question to the answer's beginning, names and redirects included.
        read: seconds within which data has to come.
        attempts: how often it is tried.
    """

    connect: float = 20.0
    read: float = 30.0
    attempts: int = 3

    @classmethod
    def from_environment(cls) -> Patience:
        """As ``DETKIT_CONNECT_TIMEOUT``, ``DETKIT_READ_TIMEOUT`` and ``DETKIT_DOWNLOAD_ATTEMPTS`` say.

        Raises:
            ValueError: one of them is no number above 0.
        """
        return cls(
            _positive("DETKIT_CONNECT_TIMEOUT", cls.connect),
            _positive("DETKIT_READ_TIMEOUT", cls.read),
            max(int(_positive("DETKIT_DOWNLOAD_ATTEMPTS", cls.attempts)), 1),
        )

    @property
    def at_most(self) -> float:
        """Seconds after which a server that is silent has been given up."""
        return self.attempts * (self.connect + self.read) + sum(map(_pause, range(1, self.attempts)))


def _positive(variable: str, otherwise: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else otherwise
    except ValueError:
        value = 0.0
    if not 0 < value < 86400:
        raise ValueError(f"The environment variable {variable} is {text!r}. It has to be a number above 0 and below 86400.")
    return value


def _pause(attempt: int) -> float:
    """Seconds before the attempt after this one."""
    return min(2.0 ** (attempt - 1), 8.0)


@dataclass(frozen=True)
class Source:
    """What is to be had.

    Attributes:
        address: where.
        name: of the file; its suffix says how it has to begin.
        sha256: that it must have, or first digits; None if unknown.
        size: in bytes; None if unknown.
    """

    address: str
    name: str
    sha256: str | None
    size: int | None


def transfer(source: Source, part: Path, patience: Patience) -> None:
    """Fills ``part`` with the file, going on from what is in it.

    Raises:
        RefusedError: another file, a page, an error that stays; nothing is kept.
        InterruptedTransferError: no answer, no end; what has come is kept for the next time.
        OSError: it could not be written.
    """
    reason = ""
    for attempt in range(1, patience.attempts + 1):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _attempt(source, part, patience)
            _check(source, part)
            _notes(part).unlink(missing_ok=True)
            return
        except RefusedError as refusal:
            _discard(part)
            if not (resumed and refusal.other_content and attempt < patience.attempts):
                raise
            reason = str(refusal)  # the parts may be of two files: once more, from the start
        except InterruptedTransferError as broken:
            reason = str(broken)
            if part.exists() and not part.stat().st_size:
                _discard(part)
        if attempt < patience.attempts:
            logger.info("%s: %s; attempt %d of %d follows.", source.name, reason, attempt + 1, patience.attempts)
            time.sleep(_pause(attempt) * min(patience.read / Patience.read, 1.0))
    raise InterruptedTransferError(f"{reason} ({patience.attempts} attempts)")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _notes(part: Path) -> Path:
    """Beside a part: by what the server says that the file is still the same."""
    return part.with_name(part.name + ".json")


def _attempt(source: Source, part: Path, patience: Patience) -> None:
    start, validator = _resumable(source, part)
    headers = {"User-Agent": "detkit", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    response = _opened(urllib.request.Request(source.address, headers=headers), start, patience)
    if response is None:
        return
    with response:
        if start and getattr(response, "status", None) != 206:
            start = 0
        total = _total(response.headers, start)
        if start and _first_byte(response.headers) != start:
            raise RefusedError("it sends another part of the file than the one it was asked for.", other_content=True)
        if source.size is not None and total is not None and total != source.size:
            raise RefusedError(f"it has {total} bytes there and should have {source.size}.", other_content=True)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusedError(f"it comes encoded as {response.headers['Content-Encoding']}, which was not asked for.")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(f"it needs {total - start} bytes and the disk has {free}")
        notes = {"validator": _validator(response.headers), "address": source.address}
        _notes(part).write_text(json.dumps(notes), encoding="utf-8")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _receive(response, file, source, start, total, patience)


def _resumable(source: Source, part: Path) -> tuple[int, str | None]:
    """How many bytes of the file are here, and how to ask whether it is still the same. A part that nothing vouches for is left out."""
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        validator = notes["validator"]
        start = part.stat().st_size if validator or source.sha256 else 0
        return (start, validator) if isinstance(validator, (str, type(None))) else (0, None)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _opened(request: urllib.request.Request, start: int, patience: Patience) -> Any:
    """The answer, once its headers are here; None where the server has no more than the ``start`` bytes that are here already."""
    opener = urllib.request.build_opener(_Redirects)
    try:
        # the connection keeps this timeout while data is read
        return _within(patience.connect, lambda: opener.open(request, timeout=patience.read))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"*/{start}"):
            return None
        message = f"the server answers {error.code} {error.reason}"
        if error.code == 416:
            raise RefusedError(f"{message}.", other_content=True) from None
        if error.code in _PASSING:
            raise InterruptedTransferError(message) from None
        raise RefusedError(f"{message}.") from None
    except TimeoutError:
        raise InterruptedTransferError(f"the server has not answered for {patience.connect:g} seconds") from None
    except urllib.error.URLError as error:
        raise InterruptedTransferError(str(error.reason) or type(error.reason).__name__) from None
    except (OSError, http.client.HTTPException) as error:
        raise InterruptedTransferError(str(error) or type(error).__name__) from None


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """What a call returns or raises, if it does in time: looking up a name, and headers that trickle, have no time limit of their own."""
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=run, daemon=True, name="download").start()
    try:
        returned, answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if not returned:
        raise answer
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted connection to an open one, and not to files of this machine."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise RefusedError(f"it leads on to '{newurl}', which is not followed from {req.type}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(response: Any, file: IO[bytes], source: Source, start: int, total: int | None, patience: Patience) -> None:
    received = start
    window, in_window = time.monotonic(), 0
    with _Progress(source.name, start, total) as progress:
        while True:
            try:
                block = response.read1(_BLOCK)
            except TimeoutError:
                raise InterruptedTransferError(f"the server stalls after {received} bytes: nothing for {patience.read:g} seconds") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise InterruptedTransferError(f"the connection broke after {received} bytes: {error or type(error).__name__}") from None
            if not block:
                break
            if received == 0:
                _check_start(source, block, response.headers)
            received += len(block)
            if received > _MOST:
                raise RefusedError(f"it does not end after {received} bytes.")
            file.write(block)
            in_window += len(block)
            progress.update(len(block))
            if time.monotonic() - window > patience.read:
                if in_window < _LEAST:
                    raise InterruptedTransferError(
                        f"the server stalls after {received} bytes: {in_window} in the last {patience.read:g} seconds"
                    )
                window, in_window = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received < total:
        raise InterruptedTransferError(f"the connection broke after {received} of {total} bytes")


def _check_start(source: Source, start: bytes, headers: Message | None = None) -> None:
    """Refuses pages of the web (errors, forms to log in) and what is no file of weights, by how it begins and what the server calls it."""
    pattern = _STARTS.get(Path(source.name).suffix.lower())
    if len(start) < _SIGNATURE or source.name.lower().endswith((".html", ".htm", ".xml")):
        return
    if pattern is None:
        page = bool(_PAGE.match(start)) or (headers is not None and headers.get("Content-Type", "").startswith("text/html"))
    elif pattern.match(start):
        return
    else:
        page = bool(_PAGE.match(start))
    if page:
        raise RefusedError("a web page comes instead of a file. Is the address that of the file itself, and may everybody download it?")
    if pattern is not None:
        raise RefusedError(f"what comes does not begin as a file in {Path(source.name).suffix} does.")


def _check(source: Source, part: Path) -> None:
    size = part.stat().st_size
    if not size:
        raise RefusedError("an empty file comes.")
    with part.open("rb") as file:
        _check_start(source, file.read(_BLOCK))
    if source.size not in (None, size):
        raise RefusedError(f"{size} bytes came and {source.size} should.", other_content=True)
    if source.sha256 is not None:
        with part.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        found = digest.hexdigest()
        if not found.startswith(source.sha256):
            shown = max(8, min(len(source.sha256), 16))
            raise RefusedError(f"its SHA-256 begins with {found[:shown]} and should with {source.sha256[:shown]}.", other_content=True)


def _validator(headers: Message) -> str | None:
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _first_byte(headers: Message) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found.group(1)) if found else None


def _total(headers: Message, start: int) -> int | None:
    """Bytes of the whole file, where the server says so."""
    length = headers.get("Content-Length")
    return start + int(length) if length and length.isdecimal() else None


class _Progress:
    """A bar on a terminal, elsewhere a line now and then."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        quiet = logger.isEnabledFor(logging.INFO) and not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=quiet, leave=False)
        self._name, self._received, self._total, self._said = name, start, total, time.monotonic()

    def update(self, count: int) -> None:
        self._bar.update(count)
        self._received += count
        if self._bar.disable and time.monotonic() - self._said > _LINE_EVERY:
            self._said = time.monotonic()
            whole = f" of {self._total / 1e6:.1f}" if self._total else ""
            logger.info("%s: %.1f%s MB", self._name, self._received / 1e6, whole)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
