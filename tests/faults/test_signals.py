"""What a process answers to a signal: while it starts, while it trains, with nohup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detkit.engine.exits import STOP_SIGNALS, Exit, ExitCode, exit_code_of, interruptible
from detkit.engine.stopping import StopRequest

ROOT = Path(__file__).parents[2]


def test_nohup_is_respected() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = StopRequest()
        with request.listening(), interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_before_the_training_is_one_line(signum: int, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Exit) as stopped, interruptible():
        signal.raise_signal(signum)
    assert stopped.value.code == 128 + signum
    assert capsys.readouterr().err == f"Stopped by {signal.Signals(signum).name} before the training had started; nothing is lost.\n"
    assert signal.getsignal(signum) is before


def test_other_threads_install_no_handlers() -> None:
    found = []

    def look() -> None:
        with interruptible(), StopRequest().listening():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


def test_an_interrupt_while_torch_is_imported_is_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, ROOT / "train_net.py", "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    end = time.monotonic() + 60
    while "torch" not in maps.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "Stopped by SIGINT before the training had started; nothing is lost.\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), ExitCode.CONFIG),
        (FloatingPointError("x"), ExitCode.NUMBERS),
        (OSError("x"), ExitCode.STORAGE),
        (MemoryError(), ExitCode.MEMORY),
        (TypeError("x"), ExitCode.DEFECT),
        (Exit("x", 143), 143),
        (SystemExit("x"), 1),
        (SystemExit(), 0),
    ],
)
def test_exit_codes_tell_kinds_apart(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code
