"""Graceful shutdown on SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["StopRequest"]


class StopRequest:
    """Remembers that this process was asked to stop: by SIGTERM (preemption, ``scancel``, a pod's eviction) or by Ctrl-C.

    A second Ctrl-C stops at once, as Python does.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect of a process that a signal has ended; that of SIGTERM where another worker was asked."""
        return 128 + (self._signal or signal.SIGTERM)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the place of the signals' handlers meanwhile. Outside the main thread, where Python allows no handlers, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {signum: signal.signal(signum, self._remember) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in former.items():
                signal.signal(signum, handler)

    def _remember(self, signum: int, frame: object) -> None:
        if signum == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signum
