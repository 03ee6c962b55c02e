"""What does torch.compile give for a training step and for inference, and how often is something compiled again?

    python benchmarks/compiled.py                       # FCOS; needs a C++ compiler
    python benchmarks/compiled.py --methods FCOS ATSS DW "Sparse R-CNN" LSNet

Training is the losses of two images with their gradients (SOLVER.COMPILE), inference one image to its detections (MODEL.COMPILE), eager
beside compiled in one process. The seconds to compile are those of the first call; torch itself counts graphs, breaks, and the graphs that
ten other image sizes add.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from timing import Report, alternate, arguments, clocked, figures, same_conditions

METHODS = ("FCOS", "ATSS", "DW", "Sparse R-CNN", "LSNet")
KEYS = {"training": "SOLVER.COMPILE", "inference": "MODEL.COMPILE"}


def call_of(model: Any, task: str, size: tuple[int, int]) -> Callable[[], object]:
    """One step without the optimizer, or one detection."""
    import torch
    from peers import our_side

    data = our_side.batch_of(size, 2 if task == "training" else 1)
    if task == "inference":
        return torch.no_grad()(lambda: model(data))

    def step() -> None:
        torch.stack(list(model(data).values())).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def measure(report: Report, method: str, task: str, args: Any) -> None:
    """Rows of eager and of compiled."""
    import torch
    from peers import our_side
    from torch._dynamo.utils import counters

    size = tuple(args.size)
    changes = (KEYS[task], True, "MODEL.COMPILE_BACKEND", args.backend)
    torch.compiler.reset()
    counters.clear()
    training = task == "training"
    sides = {"ours": (), "ours, compiled": changes}
    models = {side: our_side.detector(method, *keys, training=training, size=size)[0] for side, keys in sides.items()}
    calls = {side: call_of(model, task, size) for side, model in models.items()}
    start = time.perf_counter()
    calls["ours, compiled"]()
    seconds = round(time.perf_counter() - start, 1)
    samples = alternate({side: partial(clocked, call) for side, call in calls.items()}, rounds=args.rounds)
    graphs = counters["stats"]["unique_graphs"]
    for number in range(args.sizes):
        call_of(models["ours, compiled"], task, (size[0] + 32 * (number + 1), size[1] - 32 * number))()
    told = {
        "seconds_to_compile": seconds,
        "graphs": graphs,
        "breaks": sum(counters["graph_break"].values()),
        "graphs_of_other_sizes": counters["stats"]["unique_graphs"] - graphs,
    }
    for side, taken in samples.items():
        report.add(task=task, method=method, side=side, **figures(taken), **(told if "compiled" in side else {}))


def main() -> None:
    parser = arguments(__doc__, json_name="compiled")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["FCOS"])
    parser.add_argument("--tasks", nargs="+", choices=list(KEYS), default=list(KEYS))
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--sizes", type=int, default=10, help="other sizes that are run after")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    same_conditions(args.threads)
    if args.quick:
        args.backend, args.size, args.sizes, args.rounds, args.tasks = "eager", (64, 416), 2, 1, ["inference"]
    title, question = "Compiled steps and inference", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick) as report:
        for method in args.methods:
            for task in args.tasks:
                if not report.has(method=method, task=task):
                    measure(report, method, task, args)


if __name__ == "__main__":
    main()
