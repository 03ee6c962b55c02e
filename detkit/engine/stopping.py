"""Graceful shutdown on SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from detkit.engine.exits import STOP_SIGNALS, signal_name

__all__ = ["StopRequest"]


class StopRequest:
    """Remembers that this process was asked to stop, see :data:`detkit.engine.exits.STOP_SIGNALS`.

    A second Ctrl-C stops at once, as Python does. A signal that is ignored (SIGHUP under ``nohup``) stays so.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect of a process that a signal has ended; that of SIGTERM where another worker was asked."""
        return 128 + (self._signal or signal.SIGTERM)

    @property
    def name(self) -> str:
        """Of the signal; "another worker's" where that one was asked."""
        return "another worker's" if self._signal is None else signal_name(self._signal)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the place of the signals' handlers meanwhile. Outside the main thread, where Python allows no handlers, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
        former = {signum: signal.signal(signum, self._remember) for signum in heard}
        try:
            yield
        finally:
            for signum, handler in former.items():
                signal.signal(signum, handler)

    def _remember(self, signum: int, frame: object) -> None:
        if signum == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signum
