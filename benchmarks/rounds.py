"""Timing several sides of one question in one run: call by call in turn, so that what else the machine does disturbs all of them alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["MALLOC", "environment", "in_turn", "keep_freed_memory", "write_json"]

#: glibc hands freed memory back and asks for it again at every large tensor unless told so; all sides are timed without that
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def keep_freed_memory() -> None:
    """Starts this program again with :data:`MALLOC`, which glibc reads when a process starts, unless it runs with them."""
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)


def in_turn(
    sides: Mapping[str, Callable[[Any], object]], inputs: Callable[[str], Any], *, seconds: float, least: int = 9
) -> dict[str, dict[str, float]]:
    """Milliseconds of a call of every side: median and quartiles of processor time, median of the clock's.

    Args:
        sides: by name, what is timed; all of them once per round, after two rounds to warm up.
        inputs: makes what the side of this name is called with, before the time is taken: some write into their inputs.
        seconds: how long to go on.
        least: number of rounds.
    """
    processor: dict[str, list[float]] = {name: [] for name in sides}
    clock: dict[str, list[float]] = {name: [] for name in sides}
    end = float("inf")
    for turn in range(10**9):
        if turn == 2:
            end = time.perf_counter() + seconds
        for name, call in sides.items():
            made = inputs(name)
            start, wall = time.process_time(), time.perf_counter()
            call(made)
            if turn >= 2:
                processor[name].append(1e3 * (time.process_time() - start))
                clock[name].append(1e3 * (time.perf_counter() - wall))
        if turn >= least + 1 and time.perf_counter() > end:
            break
    result = {}
    for name, times in processor.items():
        low, middle, high = statistics.quantiles(times, n=4)
        result[name] = {"median": middle, "low": low, "high": high, "wall": statistics.median(clock[name]), "rounds": len(times)}
    return result


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    return versions | {"processor": _processor(), "cores": os.cpu_count(), "load": load, "date": time.strftime("%Y-%m-%d")}


def write_json(path: Path, content: Any) -> None:
    """Writes figures, and the folder where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
