"""How a process that is asked to end answers."""

from __future__ import annotations

import os
import signal

import pytest

from detkit.engine.stopping import StopRequest


def test_a_second_interrupt_stops_at_once() -> None:
    request = StopRequest()
    with request.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert request and request.exit_code == 128 + signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_other_second_signals_are_remembered_only(first: int, second: int) -> None:
    request = StopRequest()
    assert not request and request.exit_code == 128 + signal.SIGTERM
    with request.listening():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        assert request and request.exit_code == 128 + second


def test_the_former_handlers_return() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
