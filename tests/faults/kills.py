"""Kills a training again and again, and looks what is lost.

    python -m tests.faults.kills                        # 30 kills at random moments, 10 of one of two workers, 10 inside checkpoint writes
    python -m tests.faults.kills --alone 3 --pairs 0 --writes 3

All of them hit one run, which is resumed after each kill. A kill of a process that trains alone cannot be answered by it: its word is that
of the next start, which says whose place it takes and where it goes on. Of two workers, the one that lives has to speak. Linux alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detkit.checkpoint import CheckpointFolder, read_checkpoint
from detkit.engine import Trainer, run
from tests.toys.datasets import make_toy_data, register_toy_data, toy_cfg

from .processes import children_of, command_of

#: iterations between two checkpoints
PERIOD = 5
#: seconds after the start within which a random kill comes
_SPAN = 3.0
_RESUMED = re.compile(r"Resuming after iteration (\d+) ")


@dataclass
class Kill:
    """What one kill did.

    Attributes:
        kind: "alone", "pair" or "write".
        done: the last iteration that was done; -1: none.
        kept: the iteration to go on from; -1: the start.
        said: what the others said, or the next start; "" where nobody did.
        seconds: until all processes had ended.
    """

    kind: str
    done: int
    kept: int
    said: str
    seconds: float

    @property
    def lost(self) -> int:
        return max(0, self.done - self.kept)


class Campaign:
    """One run in a folder that is killed again and again."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder, self._random = folder, random.Random(seed)
        json_file = make_toy_data(folder / "data")
        os.environ["TOY_JSON"] = str(json_file)
        prepare()
        cfg = toy_cfg("toy", folder / "out")
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.DATASETS.TEST = 10**6, PERIOD, ()
        cfg.SOLVER.CHECKPOINT_KEEP, cfg.PATIENCE = 3, 10.0
        (folder / "toy.yaml").write_text(cfg.dump())
        self._output = folder / "out"
        self._log = folder / "console.txt"
        self._words = ["--config-file", str(folder / "toy.yaml"), "--resume"]

    def alone(self) -> Kill:
        """A process that trains alone, at any moment after its start."""
        return self._kill_alone("alone", lambda: time.sleep(self._random.uniform(0, _SPAN)))

    def write(self) -> Kill:
        """The same while it writes a checkpoint."""

        def writing() -> bool:
            return any(name.startswith(".model_") for name in os.listdir(self._output))

        def wait_for_a_write() -> None:
            for _ in range(self._random.randrange(3)):  # let some pass
                self._wait_for(writing, pause=0)
                self._wait_for(lambda: not writing(), pause=0)
            self._wait_for(writing, pause=0)

        return self._kill_alone("write", wait_for_a_write)

    def _kill_alone(self, kind: str, wait: Callable[[], None]) -> Kill:
        self._output.mkdir(exist_ok=True)
        CheckpointFolder(self._output).remove_leftovers()
        child = self._start(self._words)
        wait()
        start = time.monotonic()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seconds = time.monotonic() - start
        done, kept = self._done(), self._kept()
        return Kill(kind, done, kept, self._word_of_the_next_start(kept), seconds)

    def _start(self, words: list[str]) -> int:
        """Runs a command line in a process of its own, which writes to the log; its number."""
        with self._log.open("w") as log:
            child = os.fork()
            if child == 0:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                with contextlib.suppress(SystemExit):
                    run(words)
                os._exit(1)
        return child

    def _word_of_the_next_start(self, kept: int) -> str:
        """What it says before it trains; it is ended then."""
        os.waitpid(self._start([*self._words, "SOLVER.MAX_ITER", str(kept + 2), "SOLVER.CHECKPOINT_PERIOD", "0"]), 0)
        lines = self._log.read_text().splitlines()
        return next((line for line in lines if _RESUMED.search(line) or "no checkpoint" in line), "")

    def pair(self) -> Kill:
        """One of two workers, at any moment after the first of them has begun."""
        words = [sys.executable, "-m", "tests.faults.kills_child", *self._words, "--num-gpus", "2"]
        before = self._kept()
        with self._log.open("w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        self._wait_for(lambda: self._done() > before + 1 and len(self._workers(process.pid)) == 2)
        time.sleep(self._random.uniform(0, _SPAN))
        workers = self._workers(process.pid)
        start = time.monotonic()
        os.kill(self._random.choice(workers), signal.SIGKILL)
        process.wait(timeout=120)
        self._wait_for(lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in workers))
        errors = [line for line in self._log.read_text().splitlines() if line.startswith("error")]
        return Kill("pair", self._done(), self._kept(), errors[0] if len(errors) == 1 else "", time.monotonic() - start)

    def _workers(self, pid: int) -> list[int]:
        return [child for child in children_of(pid) if "spawn_main" in command_of(child)]

    def _done(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((self._output / "done").read_text())
        return -1

    def _kept(self) -> int:
        found = CheckpointFolder(self._output).load_last(read_checkpoint)
        return -1 if found is None else int(found[1]["iteration"])

    @staticmethod
    def _wait_for(condition: Callable[[], bool], pause: float = 0.02, timeout: float = 240.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(pause)


def prepare() -> None:
    """The toy data, and a note of every iteration that is done."""
    register_toy_data(Path(os.environ["TOY_JSON"]), "toy")
    original = Trainer.after_step

    def after_step(self: Trainer) -> None:
        original(self)
        note = Path(self.cfg.OUTPUT_DIR, f"done.{os.getpid()}")
        note.write_text(str(self.iter))
        os.replace(note, note.with_name("done"))

    Trainer.after_step = after_step  # type: ignore[method-assign]


def main(argv: list[str] | None = None) -> list[Kill]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=30, help="kills of a process that trains alone")
    parser.add_argument("--pairs", type=int, default=10, help="kills of one of two workers")
    parser.add_argument("--writes", type=int, default=10, help="kills inside checkpoint writes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), args.seed)
        for kind, count in ((campaign.write, args.writes), (campaign.alone, args.alone), (campaign.pair, args.pairs)):
            for _ in range(count):
                kill = kind()
                kills.append(kill)
                numbers = f"done {kill.done:5}  kept {kill.kept:5}  lost {kill.lost}  {kill.seconds:5.1f} s"
                print(f"{len(kills):3}  {kill.kind:6} {numbers}  {kill.said[:150]}", flush=True)
    for name in ("alone", "write", "pair"):
        of_kind = [kill for kill in kills if kill.kind == name]
        if of_kind:
            silent = sum(not kill.said for kill in of_kind)
            print(
                f"{name}: {len(of_kind)} kills, at most {max(kill.lost for kill in of_kind)} iterations lost (checkpoints every {PERIOD}), "
                f"{silent} without a word, all ended after at most {max(kill.seconds for kill in of_kind):.1f} s"
            )
    return kills


if __name__ == "__main__":
    sys.exit(int(any(kill.lost > PERIOD or not kill.said for kill in main())))
