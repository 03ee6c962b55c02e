"""The processes that prepare images: whether they live, and what is said where one does not."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
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
    batches = _without_child_signals(loader)
    return _watched(batches, _StoppedWorkers(batches._workers, patience), patience)


def _watched(batches: Any, stopped: _StoppedWorkers, patience: float) -> Iterator[Any]:
    workers: list[Any] = batches._workers
    waiting_since, warned_at = time.monotonic(), 0.0
    stopped.start()
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if _is_of_mapper(error):
                    raise
                waited = time.monotonic() - waiting_since
                timed_out = str(error).startswith("DataLoader timed out")
                if not timed_out:  # a batch whose sender has ended cannot be read
                    _wait_for_an_end(workers)
                _require_living(workers, stopped.ended)
                if not timed_out:
                    raise
                if waited > _MUCH * patience:
                    what = f"have brought no batch for {waited:.0f} s: is the storage of the images gone?"
                    raise DataWorkerLostError(_described("The data workers", what, memory=False)) from error
                if waited - warned_at > patience:
                    warned_at = waited
                    logger.warning("No batch for %.0f s: the %d data workers live, but are slow. Waiting on.", waited, len(workers))
                continue
            yield batch
            waiting_since, warned_at = time.monotonic(), 0.0
    finally:
        stopped.finish()


def _wait_for_an_end(workers: list[Any]) -> None:
    """A process closes its pipes before its exit status is there."""
    ready = wait([worker.sentinel for worker in workers], timeout=1.0)
    for worker in workers:
        if worker.sentinel in ready:
            worker.join(1.0)


def _is_of_mapper(error: Exception) -> bool:
    """Whether a worker has passed it on."""
    first = str(error).partition("\n")[0]
    return first.startswith("Caught ") and "pin memory thread" not in first


class _StoppedWorkers(threading.Thread):
    """Ends workers that are stopped for longer than the patience: who reads from one of them would wait for ever.

    Attributes:
        ended: their process numbers.
    """

    def __init__(self, workers: list[Any], patience: float) -> None:
        super().__init__(daemon=True)
        self.ended: set[int] = set()
        self._workers, self._patience = workers, patience
        self._finished = threading.Event()

    def run(self) -> None:
        pause = min(_LOOK, self._patience / 4)
        looks = dict.fromkeys((worker.pid for worker in self._workers), 0)
        # looks, not seconds: a job that is suspended as a whole does not look
        while not self._finished.wait(pause):
            for worker in self._workers:
                looks[worker.pid] = looks[worker.pid] + 1 if process_state(worker.pid) in ("T", "t") else 0
                if looks[worker.pid] * pause > self._patience:
                    self.ended.add(worker.pid)
                    worker.kill()

    def finish(self) -> None:
        """No longer."""
        self._finished.set()


def _without_child_signals(loader: DataLoader) -> Any:
    """Starts the workers. torch would raise an error wherever the training stands when one ends; here it is noticed between two batches,
    where the state is whole."""
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    former = signal.getsignal(signal.SIGCHLD) if in_main else None
    try:
        batches = iter(loader)
    except RuntimeError as error:  # workers that were kept from an earlier time are gone, stopped or stuck
        kept = getattr(loader, "_iterator", None)
        if kept is None:
            raise
        logger.warning("The data workers that were kept do not answer (%s): others take their place.", str(error).splitlines()[0])
        for worker in kept._workers:
            worker.kill()
        kept = loader._iterator = None
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


def _require_living(workers: list[Any], ended: set[int]) -> None:
    for number, worker in enumerate(workers):
        if not worker.exitcode:
            continue
        name = f"Data worker {number} (process {worker.pid})"
        if worker.pid in ended:
            raise DataWorkerLostError(_described(name, "was stopped, as by SIGSTOP", memory=False))
        how = ended_by(-worker.exitcode) if worker.exitcode < 0 else f"has ended with status {worker.exitcode}"
        raise DataWorkerLostError(_described(name, how))


def _described(who: str, what: str, *, memory: bool = True) -> str:
    remedy = " Usually the memory is full: set DATALOADER.NUM_WORKERS lower, or give the machine or container more (shared) memory."
    whose = f" of worker {get_rank()}" if get_world_size() > 1 else ""
    return f"{who}{whose} on {socket.gethostname()} {what}.{remedy * memory}"
