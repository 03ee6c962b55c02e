"""Which assigner on which head? Box AP and time of every cell, all at one budget.

    python benchmarks/matrix.py                             # every assigner on every head on the embedded `shapes`, seed 0: many hours
    python benchmarks/matrix.py --heads FCOS --hours 1      # a column; the same command goes on from there
    python benchmarks/matrix.py --assigners PAA DW --seeds 0 1 2 --output output/own \\
        --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json     # a folder for each dataset and budget
    python benchmarks/page.py                               # the table and docs/images/performance_matrix.png

Box AP, mean over the seeds and in brackets the lowest and the highest where there are several; on CPUs the seconds of processor time that a
training takes with its evaluation, on GPUs the median milliseconds of a step by the clock. Everything but assigner and head is the same:
network, data, batches and learning rate of the quick configs, GIoU, NMS at test (also after one-to-one assignment), nothing tuned for any
cell. Assigners that give weights are trained and ranked by class probability times quality; hard labels have the losses of FCOS and are
ranked by the root of that.

Rows are all of ``ASSIGNER_REGISTRY`` that label the cells of a grid; columns are the heads of FCOS, ATSS and DW, and all others of
``DENSE_HEAD_REGISTRY`` in DW's place. A cell that fails says why. How cells are kept: ``benchmarks/trainings.py``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from timing import Report, arguments
from trainings import Run, Trainings, add_arguments, data_keys, digest

from detkit.assigners import ASSIGNER_REGISTRY
from detkit.config import load_method_packages
from detkit.dense.heads import DENSE_HEAD_REGISTRY

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Head(NamedTuple):
    """A column.

    Attributes:
        method: whose quick config and section of the config it is.
        keys: below that section, with their values.
    """

    method: str
    keys: dict[str, Any]


HEADS = {
    "FCOS": Head("FCOS", {}),
    "ATSS": Head("ATSS", {}),
    "DW": Head("DW", {}),
    # boxes of 8 strides would begin outside the coarse maps of small images, where there is nothing to refine them by
    "RefiningHead": Head("DW", {"HEAD.NAME": "RefiningHead", "HEAD.BOX_BIAS": 1.0}),
    "TOODHead": Head("DW", {"HEAD.NAME": "TOODHead", "HEAD.QUALITY": "none", "BOX_CODER.NAME": "linear"}),
    # its quality is a factor of the class probability, with labels too
    "MaxFilteringHead": Head("DW", {"HEAD.NAME": "MaxFilteringHead", "LOSS.CRITERION": "weighted"}),
}


def all_heads() -> dict[str, Head]:
    """The columns by name: :data:`HEADS`, and what else is registered."""
    load_method_packages()
    others = [name for name, _ in DENSE_HEAD_REGISTRY if name not in HEADS and name != "DenseHead"]
    return HEADS | {name: Head("DW", {"HEAD.NAME": name}) for name in others}


def all_assigners() -> list[str]:
    """The rows: what is registered and labels the cells of a grid, without the "Assigner" at the end of the names."""
    load_method_packages()
    return sorted((name.removesuffix("Assigner") for name, kind in ASSIGNER_REGISTRY if kind.needs_priors), key=str.lower)


def cell_keys(head: Head, assigner: str) -> dict[str, Any]:
    """The config keys that make a cell of the quick config of its head."""
    name = f"{assigner}Assigner" if f"{assigner}Assigner" in ASSIGNER_REGISTRY else assigner
    weighted = ASSIGNER_REGISTRY.get(name).gives_weights or head.keys.get("LOSS.CRITERION") == "weighted"
    score, threshold_on = ("product", "product") if weighted else ("sqrt_product", "class")
    keys = {"ASSIGNER": name, "TEST.SCORE": score, "TEST.THRESHOLD_ON": threshold_on, **head.keys}
    return {f"MODEL.{head.method}.{key}": value for key, value in keys.items()}


def cell_config(head: Head, assigner: str, iterations: int) -> tuple[str, dict[str, Any]]:
    """The quick config of a cell, and the keys that differ from it."""
    return f"{head.method.lower()}_mobilenetv2", {**cell_keys(head, assigner), **budget_keys(iterations)}


def budget_keys(iterations: int) -> dict[str, Any]:
    """The schedule of the quick configs, drawn out or shortened."""
    steps = sorted({iterations * 2 // 3, iterations * 9 // 10} - {0})  # of a few iterations both are the same, of one there are none
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": str(tuple(steps)),
        "SOLVER.WARMUP_ITERS": min(50, iterations // 6),
    }


def rows_of(runs: Iterable[Run]) -> list[Run]:
    """A row of the result for every assigner and head that has ended; the best assigner first, by its mean over the heads."""
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run["assigner"], run["head"]), []).append(run)
    rows = [_row(assigner, head, sorted(those, key=lambda run: run["seed"])) for (assigner, head), those in cells.items()]
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["assigner"], []).append(row.get("AP", 0.0))
    return sorted(rows, key=lambda row: (-statistics.mean(values[row["assigner"]]), row["assigner"]))


def _row(assigner: str, head: str, runs: Sequence[Run]) -> Run:
    row: Run = {"assigner": assigner, "side": head}
    ended = [run for run in runs if "failed" not in run]
    if len(ended) < len(runs):
        row["failed"] = next(run["failed"] for run in runs if "failed" in run)
    if ended:
        values = {metric: [run[metric] or 0.0 for run in ended] for metric in METRICS}  # null: no object of this size
        row |= {metric: round(statistics.mean(each), 2) for metric, each in values.items()}
        row["seeds"] = [run["seed"] for run in ended]
        time = "step_ms" if any(run["environment"]["hardware"]["gpus"] for run in ended) else "cpu_s"
        if any(run[time] is not None for run in ended):
            row[time] = round(statistics.median(run[time] for run in ended if run[time] is not None))
        if len(ended) > 1:
            row |= {"AP_low": round(min(values["AP"]), 2), "AP_high": round(max(values["AP"]), 2)}
    return row


def parse() -> argparse.Namespace:
    """The command line."""
    heads, assigners = all_heads(), all_assigners()
    parser = arguments(__doc__, json_name="matrix")
    add_arguments(parser, output="output/benchmarks/matrix", own_data=False)
    parser.add_argument("--heads", nargs="+", choices=heads, default=list(heads), metavar="NAME", help=", ".join(heads))
    parser.add_argument("--assigners", nargs="+", choices=assigners, default=assigners, metavar="NAME", help=", ".join(assigners))
    parser.add_argument("--iterations", type=int, default=300, help="of 8 images (default: %(default)s)")
    parser.add_argument("--keys", nargs="+", default=[], metavar="KEY VALUE", help="overrides of config keys for all cells")
    args = parser.parse_args()
    if (args.train_json is None) != (args.val_json is None):
        parser.error("--train-json and --val-json name a dataset together.")
    if args.iterations < 1:
        parser.error(f"--iterations is {args.iterations}: it has to be 1 or more.")
    if len(args.keys) % 2:
        parser.error("--keys takes pairs: a key and its value.")
    if args.quick:
        args.output = args.output / "quick"
        args.heads, args.assigners, args.seeds, args.iterations = args.heads[:1], args.assigners[:1], args.seeds[:1], 2
    return args


def main() -> None:
    args = parse()
    data, keys = data_keys(args), dict(zip(args.keys[0::2], args.keys[1::2], strict=True))
    settings = {"iterations": args.iterations, "train_json": str(args.train_json), "val_json": str(args.val_json), "keys": keys}
    trainings = Trainings(args.output, settings, threads=args.threads, hours=args.hours, retry=args.retry)
    heads = all_heads()

    def measure(name: str, what: Run) -> Run:
        config, changes = cell_config(heads[what["head"]], what["assigner"], args.iterations)
        results = trainings.train(config, name, {**changes, **data, "SEED": what["seed"], **keys})
        return {**{metric: results["bbox"][metric] for metric in METRICS}, "step_ms": results["step_ms"], "cpu_s": results["cpu_s"]}

    cells = {
        f"{head}_{assigner}_{seed}": {"assigner": assigner, "head": head, "seed": seed}
        for seed, head, assigner in itertools.product(args.seeds, args.heads, args.assigners)
    }
    for what in cells.values():
        what["config"] = digest(*cell_config(heads[what["head"]], what["assigner"], args.iterations))
    runs = trainings.collect(cells, measure)
    title, name = "Assigners and weightings on every head", data.get("DATASETS.NAME", "shapes")
    changed = f", with {', '.join(f'`{key} {value}`' for key, value in keys.items())}" if keys else ""
    budget = f"Here: {args.iterations} iterations on `{name}`, seed {', '.join(map(str, args.seeds))}{changed}."
    report = Report(title, f"{str(__doc__).split(chr(10) * 2)[2]} {budget}", args.json, quick=args.quick, index=["assigner"], value="AP")
    report.rows.clear()  # what an earlier call has found stands in the cells, too
    for row in rows_of(runs):
        report.add(**row)
    if len(runs) == len(cells):
        report.finish()
    else:
        print(f"{len(cells) - len(runs)} of {len(cells)} cells have not ended. The same command goes on.")


if __name__ == "__main__":
    main()
