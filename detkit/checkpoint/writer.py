"""The only place where checkpoints are written: whole or not at all.

A file is written beside its place, flushed to the disk, and then renamed; so whatever stops the process in between (a kill, a full
disk, a power cut), the file of that name is either the old one or the new one.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from .soundness import non_finite

__all__ = [
    "CONFIG_FILE",
    "LAST_CHECKPOINT",
    "RUN_FILE",
    "CheckpointFolder",
    "WriteError",
    "readable_size",
    "state_size",
    "write_atomically",
    "write_text_atomically",
]

logger = logging.getLogger(__name__)

#: Name of the file that names the checkpoint to resume from, as in Detectron2.
LAST_CHECKPOINT = "last_checkpoint"
#: The record of the starts of a run; the last one names the run that the folder belongs to.
RUN_FILE = "run.json"
#: The config of a run, as it was resolved.
CONFIG_FILE = "config.yaml"
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
_FINAL = "model_final.pth"


#: how the system says that there is no room: the disk, the quota of the user, the greatest file
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any], *, size: int | None = None) -> None:
    """Writes a file so that it is never seen half written.

    Args:
        path: of the file; its folder must exist.
        write: called with an open binary file.
        size: how many bytes it will have, about, to say how many are missing.

    Raises:
        WriteError: it could not be written (no space, no permission), named by path. What stood there before still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    reason: OSError | None = None
    try:
        with open(temporary, "wb") as file:
            watched = _WatchedFile(file)
            try:
                write(watched)  # type: ignore[arg-type]  # as much of a file as writers ask for
            except Exception:
                if watched.error is None:
                    raise
                raise watched.error from None  # torch makes a RuntimeError of it that says nothing of the disk
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if reason is not None:
        raise WriteError(reason.errno, _not_written(path, reason, size)) from reason


class _WatchedFile:
    """A file that remembers the error of a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class WriteError(OSError):
    """A file could not be written. The message names it and the remedy."""

    def __str__(self) -> str:
        return str(self.args[-1])


def _not_written(path: Path, error: OSError, size: int | None) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    said = f"{path} could not be written: {reason}."
    if error.errno not in _NO_ROOM:
        return f"{said} Is there space on the disk, and the right to write there?"
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        said += f" The disk has {readable_size(free)} free"
        if size is not None:
            said += f", and the file takes {readable_size(size)}" + (f": {readable_size(size - free)} are missing" * (size > free))
        said += "."
    return f"{said} Make room (a quota and a limit on the size of a file count too). What was written before is as it was."


def readable_size(size: float) -> str:
    """``"1.5 GB"`` for a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def state_size(state: Any) -> int:
    """How many bytes the tensors of a checkpoint take."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(state_size, state.values()))
    return sum(map(state_size, state)) if isinstance(state, (list, tuple)) else 0


def _contiguous(state: Any) -> Any:
    """The same with every tensor contiguous; what holds no other tensor is kept as it is."""
    if isinstance(state, torch.Tensor):
        return state.contiguous()
    if isinstance(state, (list, tuple)):
        made = [_contiguous(each) for each in state]
        return state if all(a is b for a, b in zip(made, state, strict=True)) else type(state)(made)
    if not isinstance(state, dict):
        return state
    changed = {key: new for key, value in state.items() if (new := _contiguous(value)) is not value}
    if changed:
        state = copy.copy(state)
        state.update(changed)
    return state


def write_text_atomically(path: str | Path, text: str) -> None:
    """:func:`write_atomically` for text, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _require_finite(data: Mapping[str, Any]) -> None:
    bad = list(non_finite({key: data.get(key) for key in ("model", "trained_model", "optimizer")}))
    if bad:
        raise ValueError(f"{bad[0]}{f' and {len(bad) - 1} more' if bad[1:] else ''} has NaN or infinite numbers")


def _progress(path: Path) -> float:
    """The iteration that a checkpoint's name tells; that of the end is beyond all."""
    periodic = _PERIODIC.fullmatch(path.name)
    return int(periodic[1]) if periodic else float("inf")


class CheckpointFolder:
    """The checkpoints of one run: ``model_0000099.pth`` (after iteration 99), ``model_final.pth``, and which of them is the last.

    Args:
        folder: where they lie; made if it is missing.
        keep: how many of the periodic checkpoints to keep, the newest; 0 keeps all.
    """

    def __init__(self, folder: str | Path, *, keep: int = 0) -> None:
        self.folder = Path(folder)
        self._keep = keep

    def save(self, name: str, data: Mapping[str, Any], *, resumable: bool = True) -> Path:
        """Writes ``data`` to ``<name>.pth``, tensors in the usual order of their numbers, whatever the layout that they are trained in.

        Args:
            name: without the suffix.
            data: of tensors, numbers, strings, lists and dicts only, so that it can be read without running code.
            resumable: whether it becomes the checkpoint that a resumed run starts from.

        Returns:
            path of the file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.pth"
        write_atomically(path, lambda file: torch.save(_contiguous(dict(data)), file), size=state_size(data))
        if resumable:
            write_text_atomically(self.folder / LAST_CHECKPOINT, path.name)
            self._prune(newest=path)
        return path

    @property
    def final(self) -> Path:
        """Where the checkpoint at the end of training lies."""
        return self.folder / _FINAL

    @property
    def last(self) -> Path | None:
        """The checkpoint to resume from, as it is named; None where none is."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            path = self.folder / _read_small(self.folder / LAST_CHECKPOINT).strip()
            return path if path.is_file() else None
        return None

    @property
    def used(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return any((self.folder / name).exists() for name in (LAST_CHECKPOINT, RUN_FILE, _FINAL))

    def remove_leftovers(self) -> None:
        """Removes the temporary files of writes that a kill has interrupted. Only while no other run writes here."""
        for leftover in self.folder.glob(".*.pth.*.tmp"):
            leftover.unlink(missing_ok=True)

    def load_last(self, read: Callable[[str], Mapping[str, Any]]) -> tuple[Path, Mapping[str, Any]] | None:
        """The newest whole checkpoint that a run can resume from.

        One that cannot be read, or has NaN or infinite numbers among its weights, averages or optimizer states, is passed over with a
        warning. So are checkpoints of an earlier run: a fresh start in a used folder replaces the run there (:data:`RUN_FILE`), and names
        of checkpoints repeat from run to run.

        Args:
            read: reads one file and raises where that fails.

        Returns:
            its path and content, or None where there is no checkpoint.

        Raises:
            OSError: there are checkpoints, and every one is broken.
        """
        candidates, run = self._candidates(), self._run()
        broken, earlier = [], []
        for path in candidates:
            try:
                data = read(str(path))
                _require_finite(data)
            except Exception as error:  # whatever a broken file makes the reader raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                logger.warning("Checkpoint %s is broken (%s); looking for the one before it.", path, reason.rstrip("."))
                broken.append(path.name)
                continue
            if run is not None and data.get("run") != run:
                earlier.append(path.name)
                continue
            if broken:
                logger.warning("Taking %s, the newest whole checkpoint.", path)
            if earlier:
                logger.warning("Passed over %s: of an earlier run, or without the state of one.", ", ".join(earlier))
            return path, data
        if broken:
            raise OSError(
                f"Every checkpoint in {self.folder} is broken: {', '.join(broken)}. Remove them to start anew, or start without --resume."
            )
        if earlier:
            logger.warning(
                "%s: %s belong to an earlier run, which a later start in this folder has replaced. To continue that one, move them to a "
                "folder of their own.",
                self.folder,
                ", ".join(earlier),
            )
        return None

    def _run(self) -> str | None:
        """Identity of the run that the folder belongs to; None where nothing says so."""
        try:
            return json.loads(_read_small(self.folder / RUN_FILE))["starts"][-1].get("run")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None

    def _candidates(self) -> list[Path]:
        """The checkpoint named as last, then the others from newest to oldest."""
        found = [path for path in self.folder.glob("model_*.pth") if path.name == _FINAL or _PERIODIC.fullmatch(path.name)]
        found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
        named = self._named()
        if named is None:
            return found
        if _progress(named) < max(map(_progress, found)) and found[0] != named:
            logger.warning(
                "%s names %s, though %s is newer: continuing from the one that is named.", LAST_CHECKPOINT, named.name, found[0].name
            )
        return [named, *(path for path in found if path != named)]

    def _named(self) -> Path | None:
        """The checkpoint that :data:`LAST_CHECKPOINT` names; None, with a warning, where it names none that is there."""
        record = self.folder / LAST_CHECKPOINT
        if not record.exists():
            return None
        try:
            named = self.folder / _read_small(record).strip()
            if named.is_file() and named.parent == self.folder:
                return named
            problem = f"names {named.name}, which is not there"
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({error})"
        logger.warning("%s %s; looking for the newest checkpoint.", record, problem)
        return None

    def _prune(self, *, newest: Path) -> None:
        if not self._keep:
            return
        periodic = sorted(
            (path for path in self.folder.glob("model_*.pth") if _PERIODIC.fullmatch(path.name)),
            key=lambda path: path.stat().st_mtime_ns,
            reverse=True,
        )
        for path in periodic[self._keep :]:
            if path != newest:
                path.unlink(missing_ok=True)


def _read_small(path: Path) -> str:
    """The text of a record of the run; a pipe or a device in its place, which may never end, is an error.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    if not path.is_file():
        raise OSError(errno.ENOENT, "no regular file")
    return path.read_text(encoding="utf-8")
