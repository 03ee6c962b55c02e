"""How the benchmarks measure, and the json that they write. No benchmark has a clock of its own.

All sides of a comparison take turns in every round, so that what else runs on the machine disturbs them alike. Figures are medians with the
10th and 90th percentile, of processor time, which other programs disturb least, and of the clock. All sides have one thread and the same
settings of the C allocator.

A result is ``{"title", "question", "command", "date", "quick", "finished", "environment", "rows"}``; rows are flat: what was measured
(names and sizes, among them ``side``: who), and :func:`figures`. ``docs/performance.md`` is made of these files alone
(``benchmarks/page.py``).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["RESULTS", "Report", "Sample", "alternate", "arguments", "clocked", "figures", "peak_growth", "same_conditions"]

RESULTS = Path(__file__).resolve().parent / "results"
#: glibc hands freed memory back and asks for it again at every large tensor unless told so; read when a process starts
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Row = dict[str, Any]


class Sample(NamedTuple):
    """One call, in seconds."""

    processor: float
    wall: float


def arguments(description: str | None, *, json_name: str | None = None) -> argparse.ArgumentParser:
    """A command line with what all benchmarks understand; ``description`` is the docstring.

    Args:
        json_name: of the file in ``benchmarks/results`` that is written by default; None: only where ``--json`` says so.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = f"default: benchmarks/results/{json_name}.json" if json_name else "default: none"
    parser.add_argument("--json", type=Path, default=RESULTS / f"{json_name}.json" if json_name else None, help=f"result file ({where})")
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it runs, measures nothing")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def environment_of_sides(threads: int = 1) -> dict[str, str]:
    """The environment variables of every process that is measured."""
    return os.environ | MALLOC | dict.fromkeys(THREADS, str(threads))


def same_conditions(threads: int = 1) -> None:
    """One allocator and as many threads for all: starts this program again where the C library has read other settings."""
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment_of_sides(threads))
    import torch

    torch.set_num_threads(threads)


def clocked(call: Callable[[], object]) -> Sample:
    """One call; a GPU's work counts until it is done."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wait()
    return Sample(time.process_time() - processor, time.perf_counter() - wall)


def alternate(
    sides: Mapping[str, Callable[[], Sample]], *, rounds: int = 7, warm_up: int = 1, seconds: float = float("inf")
) -> dict[str, list[Sample]]:
    """Samples of every side; all take their turn in every round.

    Args:
        sides: what measures one call, by name: ``partial(clocked, call)`` in this process, or ``Worker.sample`` in another.
        rounds: that count.
        warm_up: rounds before.
        seconds: no round begins after so long; at least three count.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds
    for number in range(warm_up + rounds):
        if number >= warm_up + 3 and time.perf_counter() > end:
            break
        for name, sample in sides.items():
            taken = sample()
            if number >= warm_up:
                samples[name].append(taken)
    return samples


def figures(samples: Sequence[Sample]) -> Row:
    """``cpu_ms`` and ``wall_ms``, medians in milliseconds, ``_low`` and ``_high`` (10th and 90th percentile) of each, and ``rounds``."""
    row: Row = {}
    for name, values in (("cpu", [s.processor for s in samples]), ("wall", [s.wall for s in samples])):
        milliseconds = sorted(1e3 * value for value in values)
        tenths = statistics.quantiles(milliseconds, n=10, method="inclusive") if len(milliseconds) > 1 else [milliseconds[0]] * 9
        row |= {f"{name}_ms": statistics.median(milliseconds), f"{name}_low": tenths[0], f"{name}_high": tenths[-1]}
    return {key: float(f"{value:.5g}") for key, value in row.items()} | {"rounds": len(samples)}


def peak_growth(call: Callable[[], object]) -> float:
    """MiB by which the resident memory grows at the peak of a call (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again, and not seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


class Report:
    """The rows of a benchmark: printed, and written after each one, so that an interrupted run loses nothing and goes on where it ended.

    Rows of an unfinished file are kept where command, code and versions are the same. ``with Report(...) as report`` marks the file as
    finished at its end.

    Args:
        title, question: what the page says above the rows.
        index: columns that name what was measured. With them the page shows a row for each, and a column for each ``side``.
        value: the figure that it compares, ``cpu_ms`` unless another one is named; smaller is better.
        path: of the json; None: only printed.
        quick: whether figures mean anything.
    """

    def __init__(
        self,
        title: str,
        question: str,
        path: Path | None,
        *,
        quick: bool = False,
        index: Sequence[str] = (),
        value: str = "cpu_ms",
        **extra: Any,
    ) -> None:
        command = shlex.join(["python", *(Path(arg).name if i == 0 else arg for i, arg in enumerate(_without_json(sys.argv)))])
        self.path = path
        self.content: dict[str, Any] = {
            "title": title,
            "question": " ".join(question.split()),
            "command": command.replace("python ", "python benchmarks/", 1),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "quick": quick,
            "finished": False,
            "environment": environment(),
            "index": list(index),
            "value": value,
            **extra,
            "rows": self._kept(command.replace("python ", "python benchmarks/", 1)),
        }

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.finish()

    def finish(self) -> None:
        """Marks the file as finished."""
        self.content["finished"] = True
        self._write()

    @property
    def rows(self) -> list[Row]:
        return self.content["rows"]

    def has(self, **what: Any) -> bool:
        """Whether a row of these values is there already."""
        return any(all(row.get(key) == value for key, value in what.items()) for row in self.rows)

    def add(self, **row: Any) -> None:
        """One more row; prints it."""
        self.rows.append(row)
        self._write()
        print("  ".join(_shown(key, value) for key, value in row.items() if not key.endswith(("_low", "_high"))), flush=True)

    def compare(self, what: Row, sides: Mapping[str, Callable[[], Sample]], **how: Any) -> None:
        """Measures the sides by :func:`alternate` and adds a row for each, unless they are there."""
        if not self.has(**what):
            for side, samples in alternate(sides, **how).items():
                self.add(**what, side=side, **figures(samples))

    def _kept(self, command: str) -> list[Row]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            before = json.loads(self.path.read_text()) if self.path else {}
            now, then = environment(), before["environment"]
            same = all(now[key] == then.get(key) for key in ("code", "versions", "hardware"))
            if same and before["command"] == command and not before["finished"]:
                return before["rows"]
        return []

    def _write(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            head = {key: value for key, value in self.content.items() if key != "rows"}
            rows = ",\n".join(json.dumps(row) for row in self.rows)  # a line each, so that differences can be read
            text = json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'
            unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            unfinished.write_text(text)
            unfinished.replace(self.path)


def environment() -> Row:
    """Versions, commit and hardware, and the load of the machine."""
    from detkit.engine.run_record import describe_environment

    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    found = describe_environment()
    found["hardware"].pop("machine", None)  # its kernel tells nothing here
    return {**found, "load": load}


def _without_json(argv: Sequence[str]) -> Iterator[str]:
    left = iter(argv)
    for word in left:
        if word == "--json":
            next(left, None)
        elif not word.startswith("--json="):
            yield word


def _shown(key: str, value: Any) -> str:
    return f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" if isinstance(value, str) else f"{key} {value}"
