"""Trainings side by side: what the benchmarks that train have in common.

Runs go one after the other over seeds and methods; every run is written to a json file as it ends, and runs that stand there already are
not repeated. Several processes may share the folder of that file, not the file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import default_argument_parser

from detkit.config import get_cfg
from detkit.engine import main as train_net
from detkit.engine.allocator import keep_freed_memory

CONFIGS = Path(__file__).parents[1] / "configs" / "quick"

Run = dict[str, Any]


def parse_arguments(description: str | None, methods: Sequence[str], output: str) -> argparse.Namespace:
    """The command line. ``methods`` are those to choose from, ``output`` the json file unless another is given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-json", type=Path, required=True)
    parser.add_argument("--val-json", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--learning-rate-factors", nargs="+", type=float, default=[1.0], metavar="FACTOR", help="of each side's own rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(output))
    return parser.parse_args()


def train(
    config: str, method: str, args: argparse.Namespace, seed: int, factor: float = 1.0, changes: Mapping[str, Any] = {}
) -> dict[str, dict[str, float]]:
    """Trains and evaluates the quick config ``config``; metrics in percent by task (``"bbox"``, ...) and name.

    Args:
        method: after which the folder of the run is named.
        factor: of the learning rate.
        changes: keys that differ from the config.
    """
    file = CONFIGS / f"{config}.yaml"
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.merge_from_list([part for item in changes.items() for part in item])
    of_rate = "" if factor == 1 else f"_{factor:g}"
    overrides = {
        **changes,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * factor,
        "DATASETS.TRAIN_JSON": args.train_json,
        "DATASETS.VAL_JSON": args.val_json,
        "DATASETS.NAME": args.train_json.parents[1].name,
        "SEED": seed,
        "OUTPUT_DIR": args.output.parent / f"{args.output.stem}_{method}_{seed}{of_rate}",
        "MODEL.DEVICE": "cpu",
        "TEST.EXPECTED_RESULTS": "[]",
    }
    options = [str(part) for item in overrides.items() for part in item]
    command = default_argument_parser().parse_args(["--config-file", str(file), *options])
    (results,) = train_net(command).values()
    return results


def collect(args: argparse.Namespace, measure: Callable[[str, int, float], dict[str, float]]) -> list[Run]:
    """All runs, new ones and those of the file: ``method``, ``seed``, ``factor`` of the learning rate (1 where a run lacks it), ``seconds``
    and the metrics that ``measure(method, seed, factor)`` gives."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    for seed, factor, method in itertools.product(args.seeds, args.learning_rate_factors, args.methods):
        if any((run["method"], run["seed"], run.get("factor", 1.0)) == (method, seed, factor) for run in runs):
            continue
        start = time.perf_counter()
        metrics = measure(method, seed, factor)
        runs.append({"method": method, "seed": seed, "factor": factor, **metrics, "seconds": time.perf_counter() - start})
        environment = {
            "torch": torch.__version__,
            "threads": args.threads,
            "machine": platform.platform(),
            "date": time.strftime("%Y-%m-%d"),
        }
        args.output.write_text(json.dumps({"data": str(args.train_json), "environment": environment, "runs": runs}, indent=1) + "\n")
    return runs


def print_table(runs: list[Run], methods: Sequence[str], metrics: Sequence[str]) -> None:
    """Every metric of every method: mean over seeds, each seed, and how long a run takes.

    Of several learning rates each method takes the one with the highest mean, so that none stands at a rate that suits another.
    """
    width = max(map(len, methods))
    for metric, method in itertools.product(metrics, methods):
        of_factor: dict[float, dict[int, Run]] = {}
        for run in runs:
            if run["method"] == method:
                of_factor.setdefault(run.get("factor", 1.0), {})[run["seed"]] = run
        lines = []
        for factor, those in of_factor.items():
            values = [run[metric] for _, run in sorted(those.items())]
            minutes = statistics.median(run["seconds"] for run in those.values()) / 60
            seeds = ", ".join(f"{value:.1f}" for value in values)
            lines.append((statistics.mean(values), f"seeds {seeds}   median {minutes:.1f} min a run", factor))
        for rank, (mean, text, factor) in enumerate(sorted(lines, reverse=True)):
            rate = "" if len(lines) == 1 else f"   {factor:g} times its learning rate{', the better one' if rank == 0 else ''}"
            print(f"{metric:6s} {method:{width}s} {mean:5.1f}   {text}{rate}")
