"""The processes that prepare images: whether they live, and what is said where one does not."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

from detkit.distributed import get_rank, get_world_size
from detkit.engine.exits import ExitCode
from detkit.engine.peers import ended_by, process_state

__all__ = ["DataWorkerLostError", "watched_batches"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at workers that let the training wait.
_LOOK = 2.0
#: Workers that live but bring nothing are given up after so many times the patience.
_MUCH = 10


class DataWorkerLostError(RuntimeError):
    """A process that prepares images is gone, stopped or stuck. The message names it and the remedy."""

    exit_code = ExitCode.PEER_LOST


def watched_batches(loader: DataLoader, patience: float) -> Iterator[Any]:
    """The batches of a loader. While one is waited for, its workers are looked at.

    The workers start at once.

    Args:
        loader: its ``timeout`` is set.
        patience: seconds after which a stopped worker is lost, and a slow one is warned about. One that was killed is noticed at once.

    Raises:
        DataWorkerLostError: a worker was killed, was stopped, or has brought nothing for ten times the patience.
    """
    if not loader.num_workers:
        return iter(loader)
    loader.timeout = min(_LOOK, patience)
    return _watched(_without_child_signals(loader), loader.num_workers, patience)


def _watched(batches: Any, num_workers: int, patience: float) -> Iterator[Any]:
    waiting_since, warned_at = time.monotonic(), 0.0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader"):  # an error of a mapper, which the worker has passed on
                raise
            waited = time.monotonic() - waiting_since
            _look_at(batches._workers, waited, patience)
            if "timed out" not in str(error):
                raise DataWorkerLostError(_described("A data worker", "has ended without a word")) from error
            if waited - warned_at > patience:
                warned_at = waited
                logger.warning("No batch for %.0f s: the %d data workers live, but are slow. Waiting on.", waited, num_workers)
            continue
        yield batch
        waiting_since, warned_at = time.monotonic(), 0.0


def _without_child_signals(loader: DataLoader) -> Any:
    """Starts the workers. torch would raise an error wherever the training stands when one ends; here it is noticed between two batches,
    where the state is whole."""
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    former = signal.getsignal(signal.SIGCHLD) if in_main else None
    batches = iter(loader)
    _started.update(batches._workers)  # type: ignore[attr-defined]
    if in_main and signal.getsignal(signal.SIGCHLD) is not former:
        signal.signal(signal.SIGCHLD, former or signal.SIG_DFL)
    return batches


_started: WeakSet[Any] = WeakSet()


def _kill_what_is_left() -> None:
    """Python waits at its end for processes that it has asked to end; one that is stopped or stuck would not answer."""
    for worker in list(_started):
        if worker.is_alive():
            worker.kill()


Finalize(None, _kill_what_is_left, exitpriority=10)  # unlike atexit, in started processes too


def _look_at(workers: list[Any], waited: float, patience: float) -> None:
    for number, worker in enumerate(workers):
        name = f"Data worker {number} (process {worker.pid})"
        if worker.exitcode:
            how = ended_by(-worker.exitcode) if worker.exitcode < 0 else f"has ended with status {worker.exitcode}"
            raise DataWorkerLostError(_described(name, how))
        if waited > patience and process_state(worker.pid) in ("T", "t"):
            raise DataWorkerLostError(_described(name, f"is stopped, as by SIGSTOP (no batch for {waited:.0f} s)", memory=False))
    if waited > _MUCH * patience:
        raise DataWorkerLostError(
            _described("The data workers", f"have brought no batch for {waited:.0f} s: is the storage of the images gone?", memory=False)
        )


def _described(who: str, what: str, *, memory: bool = True) -> str:
    remedy = " Usually the memory is full: set DATALOADER.NUM_WORKERS lower, or give the machine or container more (shared) memory."
    whose = f" of worker {get_rank()}" if get_world_size() > 1 else ""
    return f"{who}{whose} on {socket.gethostname()} {what}.{remedy * memory}"
