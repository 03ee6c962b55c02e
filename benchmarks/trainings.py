"""Trainings side by side: what the benchmarks that train have in common.

Every cell (a method, a seed, ...) has a name. Its training runs by ``train_net.py`` in a process and a folder of its own, and is kept as a
json file beside that folder as it ends. The same command goes on where it was stopped or killed: what is kept is not repeated, and what was
cut off resumes from its checkpoint. A cell that fails is kept with one line that says why. Several processes may share the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from timing import environment, environment_of_sides

from detkit.checkpoint import write_text_atomically
from detkit.config import get_cfg
from detkit.engine.exits import STOP_SIGNALS, ExitCode, interruptible, signal_name

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "quick"
#: iterations from one checkpoint to the next: what a kill costs at most
CHECKPOINT_PERIOD = 50

Run = dict[str, Any]


class TrainingError(Exception):
    """A training that has failed; one line says why."""


class NotNowError(Exception):
    """A training that has not ended, for a reason that is not its own: no time is left, or another process has its folder."""


class Trainings:
    """The trainings of one folder.

    Args:
        folder: holds ``NAME.json`` and ``NAME/`` of every cell.
        settings: what all cells have in common: data, budget. A folder belongs to one of it.
        threads: of each training.
        hours: after which no training begins, and the one that runs is stopped with a checkpoint.
        retry: run what has failed before again.

    Raises:
        SystemExit: the folder holds trainings of other settings.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, threads: int = 1, hours: float = float("inf"), retry: bool = False
    ) -> None:
        self.folder, self.threads = folder, threads
        self.end = time.monotonic() + 3600 * hours
        path, wanted = folder / "settings.json", json.loads(json.dumps(dict(settings)))
        before = json.loads(path.read_text()) if path.exists() else wanted
        differing = [key for key in {**before, **wanted} if before.get(key) != wanted.get(key)]
        if differing:
            words = ", ".join(f"{key} {before.get(key)!r} there, {wanted.get(key)!r} here" for key in differing)
            sys.exit(f"{folder} holds trainings of other settings: {words}. Name another folder by --output, or remove this one.")
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(wanted, indent=1) + "\n")
        for kept in folder.glob("*.json") if retry else ():
            if "failed" in json.loads(kept.read_text()):
                kept.unlink()

    def collect(self, cells: Mapping[str, Run], measure: Callable[[str, Run], Run]) -> list[Run]:
        """Runs what is not kept yet; gives the cells that have ended, failed ones with their reason under ``failed``.

        Args:
            cells: by name, what each is: method, seed, ...
            measure: gives the figures of a cell by its name and what it is. An exception is the reason why it failed.

        Raises:
            SystemExit: what is kept under the name of a cell is something else.
        """
        for name, what in cells.items():
            if (kept := self.kept(name)) is not None and any(kept.get(key) != value for key, value in what.items()):
                sys.exit(
                    f"{self.folder / name}.json is of other keys than it would have now. Remove it and its folder, or name another one."
                )
        start = time.monotonic()
        with interruptible("meanwhile. The same command goes on from there"):
            for number, (name, what) in enumerate(cells.items(), 1):
                if self.kept(name) is not None or time.monotonic() >= self.end:
                    continue
                print(f"[{number}/{len(cells)}, {(time.monotonic() - start) / 60:.1f} min] {name}", flush=True)
                try:
                    found = self._measured(name, what, measure)
                except NotNowError as reason:
                    print(f"    not now: {reason}", flush=True)
                    continue
                write_text_atomically(self.folder / f"{name}.json", json.dumps({**what, **found}, indent=1) + "\n")
                print(f"    {_shown(found)}", flush=True)
        return [run for name in cells if (run := self.kept(name)) is not None]

    def kept(self, name: str) -> Run | None:
        """A cell that has ended."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _measured(self, name: str, what: Run, measure: Callable[[str, Run], Run]) -> Run:
        start = time.monotonic()
        try:
            found = measure(name, what)
        except NotNowError:
            raise
        except Exception as error:
            found = {"failed": _one_line(str(error) or type(error).__name__)}
        return {**found, "seconds": round(time.monotonic() - start, 1), "environment": environment()}

    def train(self, config: str, name: str, changes: Mapping[str, Any]) -> Run:
        """Trains and evaluates the quick config ``config``, from the checkpoint in the folder of the cell ``name`` if one is there.

        Args:
            changes: keys and values that differ from the config's.

        Returns:
            the results, in percent by task (``"bbox"``, ...) and name; under ``step_ms`` the median time of a step by the clock, under
            ``cpu_s`` the processor time of the whole, which other programs disturb least; None where a part was trained before.

        Raises:
            TrainingError: it has failed.
            NotNowError: there is no time left, or another process trains the same cell.
            SystemExit: it was asked to stop.
        """
        folder = self.folder / name
        is_new, before = not (folder / "last_checkpoint").exists(), _processor_time_of_children()
        always = {
            "OUTPUT_DIR": folder,
            "SOLVER.CHECKPOINT_PERIOD": CHECKPOINT_PERIOD,
            "TEST.EVAL_PERIOD": 0,
            "TEST.EXPECTED_RESULTS": "[]",
        }
        words = [str(part) for item in {**always, **changes}.items() for part in item]
        script = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py")]
        self._run([*script, "--config-file", str(CONFIGS / f"{config}.yaml"), "--resume", *words])
        (results,) = json.loads((folder / "results.json").read_text())["results"].values()
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        times = [1000 * line["time"] for line in lines if "time" in line]
        cpu_s = _processor_time_of_children() - before
        return {**results, "step_ms": round(statistics.median(times)) if times else None, "cpu_s": round(cpu_s, 1) if is_new else None}

    def _run(self, command: Sequence[str]) -> None:
        """A process to its end. What stops this program stops it too, with a checkpoint."""
        process = subprocess.Popen(
            command, env=environment_of_sides(self.threads), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        left = self.end - time.monotonic()
        try:
            _, said = process.communicate(timeout=None if left == float("inf") else max(left, 0))
        except BaseException as error:
            process.terminate()
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise NotNowError("no time is left; it goes on from its checkpoint") from None
            raise
        code = process.returncode
        if code == ExitCode.STORAGE:
            raise NotNowError(_reason(said))
        if code in {*(128 + number for number in STOP_SIGNALS), *(-number for number in STOP_SIGNALS)}:
            sys.exit("A training was asked to stop. The same command goes on from there.")
        if code:
            raise TrainingError(f"killed by {signal_name(-code)}: is there enough memory?" if code < 0 else _reason(said))


def _processor_time_of_children() -> float:
    """Seconds of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reason(said: str) -> str:
    """What a process says of its end: its error, or the last line of a traceback."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error")), lines[-1] if lines else "it said nothing")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def _shown(found: Run) -> str:
    if "failed" in found:
        return f"failed: {found['failed']}"
    return "  ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float))


# command lines --------------------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, *, output: str, own_data: bool) -> None:
    """What every benchmark that trains understands.

    Args:
        output: the folder unless another is given.
        own_data: whether the files of a dataset have to be given; else the dataset is that of the configs.
    """
    parser.add_argument("--train-json", type=Path, required=own_data)
    parser.add_argument("--val-json", type=Path, required=own_data)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--hours", type=float, default=float("inf"), help="stop after so many; the same command goes on (default: no limit)"
    )
    parser.add_argument("--retry", action="store_true", help="run what has failed before again")
    parser.add_argument("--output", type=Path, default=Path(output), help="folder of the trainings (default: %(default)s)")


def data_keys(args: argparse.Namespace) -> dict[str, Any]:
    """The config keys of the dataset that the command line names."""
    if args.train_json is None:
        return {}
    return {
        "DATASETS.TRAIN_JSON": args.train_json,
        "DATASETS.VAL_JSON": args.val_json,
        "DATASETS.NAME": args.train_json.resolve().parents[1].name,
    }


def parse_arguments(description: str | None, methods: Sequence[str], output: str) -> argparse.Namespace:
    """The command line of methods side by side. ``methods`` are those to choose from."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, output=output, own_data=True)
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    parser.add_argument("--learning-rate-factors", nargs="+", type=float, default=[1.0], metavar="FACTOR", help="of each side's own rate")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def trainings_of(args: argparse.Namespace) -> Trainings:
    """The folder that the command line names."""
    settings = {"train_json": str(args.train_json), "val_json": str(args.val_json)}
    return Trainings(args.output, settings, threads=args.threads, hours=args.hours, retry=args.retry)


def method_cells(args: argparse.Namespace) -> dict[str, Run]:
    """Every method with every learning rate and seed."""
    cells = {}
    for seed, factor, method in itertools.product(args.seeds, args.learning_rate_factors, args.methods):
        of_rate = "" if factor == 1 else f"_{factor:g}"
        cells[f"{method}_{seed}{of_rate}"] = {"method": method, "seed": seed, "factor": factor}
    return cells


def method_changes(config: str, what: Run, args: argparse.Namespace, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a cell of :func:`method_cells`, with ``changes`` of its own, of whose learning rate its factor is one, too."""
    rate = _resolved(config, changes or {}).SOLVER.BASE_LR * what["factor"]
    return {**(changes or {}), "SOLVER.BASE_LR": rate, **data_keys(args), "SEED": what["seed"], "MODEL.DEVICE": "cpu"}


def digest(config: str, changes: Mapping[str, Any]) -> str:
    """What a quick config with changes comes to, in a word: with it in a cell, what was kept of another config is not taken for it."""
    return hashlib.sha256(_resolved(config, changes).dump().encode()).hexdigest()[:12]


def _resolved(config: str, changes: Mapping[str, Any]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{config}.yaml"))
    cfg.merge_from_list([part for item in changes.items() for part in item])
    return cfg


def print_table(runs: list[Run], methods: Sequence[str], metrics: Sequence[str]) -> None:
    """Every metric of every method: mean over seeds, each seed, and how long a run takes.

    Of several learning rates each method takes the one with the highest mean, so that none stands at a rate that suits another.
    """
    width = max(map(len, methods))
    for metric, method in itertools.product(metrics, methods):
        of_factor: dict[float, dict[int, Run]] = {}
        for run in runs:
            if run["method"] == method and "failed" not in run:
                of_factor.setdefault(run["factor"], {})[run["seed"]] = run
        lines = []
        for factor, those in of_factor.items():
            values = [run[metric] or 0.0 for _, run in sorted(those.items())]  # null: nothing was found
            minutes = statistics.median(run["seconds"] for run in those.values()) / 60
            seeds = ", ".join(f"{value:.1f}" for value in values)
            lines.append((statistics.mean(values), f"seeds {seeds}   median {minutes:.1f} min a run", factor))
        for rank, (mean, text, factor) in enumerate(sorted(lines, reverse=True)):
            rate = "" if len(lines) == 1 else f"   {factor:g} times its learning rate{', the better one' if rank == 0 else ''}"
            print(f"{metric:6s} {method:{width}s} {mean:5.1f}   {text}{rate}")
