"""The processes of a command line that runs: its workers and their data workers. Linux alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.toys.own_data import Started


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that live, in the order of their start."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == pid and words[0] not in "ZX":
                found.append(int(folder.name))
    return sorted(found)


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


class Run:
    """A command line with its processes."""

    def __init__(self, started: Started) -> None:
        self.started, self.output = started, started.output

    def wait_for_checkpoint(self, timeout: float = 240) -> None:
        end = time.monotonic() + timeout
        while not (self.output / "last_checkpoint").exists() and time.monotonic() < end and self.started.process.poll() is None:
            time.sleep(0.05)
        assert (self.output / "last_checkpoint").exists(), "no checkpoint was written"

    def workers(self) -> list[int]:
        """In the order of their ranks; one process trains itself."""
        pid = self.started.process.pid
        return [child for child in _own(pid) if "--config-file" in command_of(child) or "spawn_main" in command_of(child)] or [pid]

    def data_workers(self) -> list[int]:
        """Those of the last worker."""
        last = self.workers()[-1]
        return _own(last)

    def kill_all(self) -> None:
        """As when the machine is gone."""
        for pid in [self.started.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.started.process.communicate()


def _own(pid: int) -> list[int]:
    """Children but for the process with which Python cleans up."""
    return [child for child in children_of(pid) if "resource_tracker import" not in command_of(child)]
