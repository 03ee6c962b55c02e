"""The process that has started workers waits for them, says for them what they cannot say, and ends with their exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

import torch.distributed as dist

from detkit.engine.exits import STOP_SIGNALS, Exit, ExitCode
from detkit.engine.peers import end_for_all, ended_by, process_state, say, watch_name

__all__ = ["Family"]

#: Seconds that workers have to save and end when one of them has ended too early; and to end when they were told to.
_TO_SAVE, _TO_END = 300.0, 15.0


class Family:
    """Workers of one machine.

    Args:
        processes: the workers.
        ranks: of each.
        world_size: workers on all machines.
        store: that the workers use, to tell those that live who does not.
    """

    def __init__(self, processes: Sequence[Any], ranks: Sequence[int], world_size: int, store: dist.Store) -> None:
        self._processes, self._ranks, self._world_size, self._store = list(processes), list(ranks), world_size, store
        self._asked: int | None = None

    def wait(self) -> None:
        """Until all have ended. A request to stop is passed on; the workers answer it with a checkpoint.

        Raises:
            Exit: with the exit code of the first worker that has not ended well.
        """
        previous = {
            signum: signal.signal(signum, self._pass_on) for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN
        }
        try:
            self._wait()
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self._asked = signum
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM if signum == signal.SIGINT else signum)

    def _wait(self) -> None:
        first: int | None = None
        deadline = float("inf")
        while alive := [process for process in self._processes if process.is_alive()]:
            wait([process.sentinel for process in alive], timeout=1.0)
            failed = [index for index, process in enumerate(self._processes) if process.exitcode]
            if failed and first is None:
                first = failed[0]
                deadline = time.monotonic() + self._told(first)
            if first is not None:
                self._end_the_stopped()
                if time.monotonic() > deadline:
                    self._end_all()
        for process in self._processes:
            process.join()
        if first is not None:
            self._report(first)

    def _told(self, index: int) -> float:
        """Tells the workers that this one was killed, if it was; how long they have."""
        process, rank = self._processes[index], self._ranks[index]
        name = watch_name(self._store)
        if name is None:  # they have not met: nothing is to be saved, and they would wait for each other
            return 0.0
        if process.exitcode < 0:
            end_for_all(self._store, name, rank, ended_by(-process.exitcode))
        return _TO_SAVE

    def _end_the_stopped(self) -> None:
        """A stopped process ends by nothing else."""
        if any((process.exitcode or 0) > 0 for process in self._processes):
            for process in self._processes:
                if process.is_alive() and process_state(process.pid) in ("T", "t"):
                    process.kill()

    def _end_all(self) -> None:
        alive = [process for process in self._processes if process.is_alive()]
        for process in alive:
            process.terminate()
        end = time.monotonic() + _TO_END
        for process in alive:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()

    def _report(self, first: int) -> None:
        codes = [process.exitcode for process in self._processes]
        spoken = [code for code in codes if code > 0]
        if spoken:
            raise Exit("a worker has stopped", codes[first] if codes[first] > 0 else spoken[0])
        process, rank = self._processes[first], self._ranks[first]
        message = (
            f"error: worker {rank} of {self._world_size} (process {process.pid} on {socket.gethostname()}) {ended_by(-codes[first])}, "
            "and no other one is left. Continue with --resume."
        )
        say(message)
        raise Exit(message, ExitCode.PEER_LOST)
