"""A side of a comparison in a process of its own, which may have another environment than ours.

A worker reads commands as lines of json and answers in the same way: ``make`` builds a case of its side (``CASES`` of its module),
``sample`` runs it once and says how long that took.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from peers.environment import PeersMissingError, peers_python
from timing import Sample, clocked, environment_of_sides

__all__ = ["MODULES", "SideMissingError", "Worker", "available_sides"]

#: module of each side, and whether it needs the environment of the peers
MODULES = {
    "ours": ("our_side", False),
    "torchvision": ("torchvision_side", False),
    "Detectron2": ("detectron2_side", False),
    "mmdetection": ("mmdetection_side", True),
}
_VALUES = 3_600_000


class SideMissingError(Exception):
    """A side does not run here; the message says why, in one line."""


class Worker:
    """The process of one side, from its start with nothing computed yet.

    Args:
        side: a key of :data:`MODULES`.

        root: of the checkout whose packages are measured; None: this one.

    Raises:
        SideMissingError: its environment cannot be made, or it does not start.
    """

    def __init__(self, side: str, threads: int = 1, *, root: Path | None = None) -> None:
        self.side = side
        module, elsewhere = MODULES[side]
        try:
            python = peers_python() if elsewhere else sys.executable
        except PeersMissingError as error:
            raise SideMissingError(str(error)) from error
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(Path(__file__).resolve()), module, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment_of_sides(threads) | {"PYTHONPATH": str(root or Path(__file__).resolve().parents[2])},
            text=True,
        )

    def make(self, case: str, *, name: str = "", **arguments: Any) -> None:
        """Builds a case, which :meth:`sample` then runs; a process holds several if they have different names."""
        self._ask("make", case=case, name=name, arguments=arguments)

    def sample(self, name: str = "") -> Sample:
        """Runs a case once."""
        return Sample(*self._ask("sample", name=name))

    def value(self, case: str, **arguments: Any) -> Any:
        """What a case gives that measures by itself, in types of json."""
        return self._ask("value", case=case, arguments=arguments)

    def log1p_milliseconds(self) -> float:
        """How long ``log1p`` of 3.6 million floats takes in this process at this time."""
        return self._ask("log1p")

    def end_slow_state(self) -> None:
        """One ``pow`` of a small tensor, after which ``log1p`` is fast where it was slow."""
        self._ask("pow")

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, what: str, **more: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"what": what, **more}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SideMissingError(f"{self.side}: its process ended with code {self._process.wait(timeout=60)}")
        done = json.loads(answer)
        if "error" in done:
            raise SideMissingError(f"{self.side}: {done['error']}")
        return done["answer"]


def available_sides(sides: list[str], threads: int = 1) -> dict[str, Worker]:
    """Workers of those sides that run here; says which do not, and why."""
    workers: dict[str, Worker] = {}
    for side in sides:
        try:
            workers[side] = Worker(side, threads)
            workers[side].value("version")
        except SideMissingError as error:
            workers.pop(side, None)
            print(f"left out: {error}", file=sys.stderr, flush=True)
    return workers


def _serve(module: str, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    torch.set_num_threads(threads)
    runs: dict[str, Callable[[], object]] = {}
    cases: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["what"] in ("make", "value") and not cases:
                cases = importlib.import_module(f"peers.{module}").CASES
            if asked["what"] == "make":
                runs.pop(asked["name"], None)  # its memory first
                runs[asked["name"]], answer = cases[asked["case"]](**asked["arguments"]), None
            elif asked["what"] == "value":
                answer = cases[asked["case"]](**asked["arguments"])
            elif asked["what"] == "sample":
                answer = clocked(runs[asked["name"]])
            elif asked["what"] == "log1p":
                values = torch.rand(_VALUES)
                answer = 1e3 * sorted(clocked(partial(torch.log1p, values)).processor for _ in range(3))[1]
            else:
                answer = None
                torch.rand(64).pow(torch.rand(64))
            done = {"answer": answer}
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            done = {"error": f"{type(error).__name__}: {lines[0]}"}
        print(json.dumps(done), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
