"""How a process of ours ends: one message and an exit code that says what kind of reason it was.

Exit codes tell a script whether to start the run again as it is (a lost peer, a request to stop), after a correction, or not at all.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from detkit.checkpoint import CheckpointError
from detkit.config import ConfigError
from detkit.data import DataError
from detkit.evaluation import EvaluationError

__all__ = ["STOP_SIGNALS", "Exit", "ExitCode", "exit_code_of", "interruptible", "mute", "signal_name"]

#: What asks a process to stop: preemption, ``scancel``, a pod's eviction (TERM); Ctrl-C (INT); a terminal that closes (HUP); the warning
#: that a scheduler can be told to send ahead of its time limit (USR1).
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)))


class ExitCode(enum.IntEnum):
    """Why a process has ended. A request to stop has 128 + the number of its signal, as in shells: 143 for SIGTERM, 130 for Ctrl-C."""

    DONE = 0
    DEFECT = 1  #: a fault of the program; its traceback is shown
    CONFIG = 2  #: the command line, a config file, a key or its value
    DATA = 3  #: annotations, images, weights, detections
    NUMBERS = 4  #: a loss, a gradient or weights that are not finite
    STORAGE = 5  #: a file or a folder that cannot be written or read: full, forbidden, in use
    RESULTS = 6  #: TEST.EXPECTED_RESULTS are missed
    PEER_LOST = 7  #: another worker, a data worker or a machine is gone or does not answer; start again with --resume
    MEMORY = 8  #: there is not enough memory


class Exit(SystemExit):
    """Ends the process with a message that was said, and a code.

    Args:
        message: for the user, one line; ``str()`` gives it.
        code: an :class:`ExitCode`, or 128 + the number of a signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(int(code))
        self.message = message

    def __str__(self) -> str:
        return self.message


def exit_code_of(error: BaseException) -> int:
    """The exit code of an error that ends the process."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    kinds: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
        ((ConfigError,), ExitCode.CONFIG),
        ((DataError, EvaluationError, CheckpointError), ExitCode.DATA),
        ((FloatingPointError,), ExitCode.NUMBERS),
        ((MemoryError,), ExitCode.MEMORY),
        ((OSError,), ExitCode.STORAGE),
        ((ValueError, KeyError), ExitCode.CONFIG),
    )
    declared = getattr(error, "exit_code", None)
    if declared is not None:
        return int(declared)
    return next((code for types, code in kinds if isinstance(error, types)), ExitCode.DEFECT)


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_muted = False


def mute() -> None:
    """From now on :func:`interruptible` says nothing in this process: another one speaks for it."""
    global _muted
    _muted = True


@contextlib.contextmanager
def interruptible(what: str = "before the training had started; nothing is lost") -> Iterator[None]:
    """A request to stop ends this process with one line meanwhile. Outside the main thread it does nothing.

    Args:
        what: the end of the line.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]  # nohup has asked for that

    def end(signum: int, frame: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, signal.SIG_IGN)  # one line is enough
        message = f"Stopped by {signal_name(signum)} {what}."
        if not _muted:
            print(message, file=sys.stderr, flush=True)
        raise Exit(message, 128 + signum)

    former = {signum: signal.signal(signum, end) for signum in heard}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
