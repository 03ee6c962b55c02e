"""After which iteration the state of a training is whole, so that it may be saved when something goes wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.engine.peers import set_progress

__all__ = ["WholeState"]

#: Seconds that a rescue waits for an update of the weights to be done.
_SHORT = 10.0


class WholeState:
    """Weights, averages and schedule belong together from the end of an iteration until the next one changes weights.

    Means and variances of batch normalization change before that, in the forward pass: they are kept, and put back for a checkpoint.

    Args:
        model: that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._statistics: list[Tensor] = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for buffer in module.buffers(recurse=False)
        ]
        self._kept: list[Tensor] = []
        self._iteration: int | None = None
        self._event: torch.cuda.Event | None = None
        self._lock = threading.Lock()

    def begin(self, iteration: int) -> None:
        """The state after ``iteration`` was loaded, or -1: it is that of the start."""
        if self._lock.locked():
            self._lock.release()
        self._keep(iteration)

    def changing(self) -> None:
        """From now on weights are changed."""
        self._lock.acquire()
        self._iteration = None

    def completed(self, iteration: int) -> None:
        """All of the iteration is done, its checkpoint included."""
        self._keep(iteration)
        if self._lock.locked():
            self._lock.release()

    def _keep(self, iteration: int) -> None:
        with torch.no_grad():
            self._kept = [buffer.clone() for buffer in self._statistics]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._event = torch.cuda.current_stream().record_event()
        self._iteration = iteration
        set_progress(iteration)

    @contextlib.contextmanager
    def held(self) -> Iterator[int | None]:
        """The last whole iteration, whose state stays meanwhile; None where there is none. In any thread.

        On a GPU that waits for a worker that is lost, the weights of the last iterations are not computed yet: None.
        """
        if not self._lock.acquire(timeout=_SHORT):
            yield None
            return
        try:
            if self._iteration is None or not self._computed():
                yield None
                return
            # the streams of the training may wait for a worker that is lost
            with torch.cuda.stream(torch.cuda.Stream()) if self._event is not None else contextlib.nullcontext():
                now = [buffer.clone() for buffer in self._statistics]
                self._set_statistics(self._kept)
                yield self._iteration
                self._set_statistics(now)
        finally:
            self._lock.release()

    def _computed(self) -> bool:
        end = time.monotonic() + _SHORT
        while self._event is not None and not self._event.query():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    @torch.no_grad()
    def _set_statistics(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._statistics, values, strict=True):
            buffer.copy_(value)
