"""How long do losses take, from the maps of a head over label assignment to the gradient of the maps, beside other toolboxes?

    python benchmarks/losses.py                     # FCOS, ATSS, DW, Sparse R-CNN; mmdetection's environment is made on first use
    python benchmarks/losses.py --methods FCOS --sides ours torchvision

A batch of 2 at 800 x 1344, 80 classes, 8 to 512 objects per image; FCOS with center sampling everywhere, DW beside mmdetection's TOOD (its
second assigner), Sparse R-CNN's criterion with 6 stages. Every side is a process of its own with one thread; the sides take turns.

On some processors ``log1p``, ``expm1`` and ``softplus`` are ten to twenty times slower in a new process, until a vectorized ``pow`` has
run in it. Both states are measured: the slow one in new processes, before the one ``pow`` of 64 numbers that brings about the fast one.
Each row says the state that was found after its rounds (``log1p_ms``, of 3.6 million floats): a side whose own code takes a ``pow`` has
left the slow state by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peers.worker import Worker, available_sides
from timing import Report, alternate, arguments, figures

SIDES = {
    "FCOS": ["ours", "mmdetection", "Detectron2", "torchvision"],
    "ATSS": ["ours", "mmdetection"],
    "DW": ["ours", "mmdetection"],
    "Sparse R-CNN": ["ours", "mmdetection"],
}
INDEX = ["state", "method", "proposals", "objects"]
#: milliseconds of ``log1p`` above which the state is the slow one; 2 and 35 were seen
SLOW = 8.0


def cases(methods: list[str], counts: list[int], *, quick: bool) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """What is measured: the columns of its row, the case of the worker and its arguments."""
    for method in methods:
        for count in counts:
            what = {"method": method, "objects": count}
            if method != "Sparse R-CNN":
                size = {"size": [256, 320]} if quick else {}
                yield what, "losses", {"method": method, "count": count, **size}
            elif count <= 128:
                for proposals in (100, 300):
                    yield what | {"proposals": proposals}, "criterion", {"num_proposals": proposals, "count": count}


def measure(report: Report, workers: dict[str, Worker], what: dict[str, Any], case: str, given: dict[str, Any], rounds: int) -> None:
    """Adds a row for each side, unless they are there."""
    sides = [side for side in SIDES[what["method"]] if side in workers]
    if not sides or report.has(**what):
        return
    for side in sides:
        workers[side].make(case, **given)
    samples = alternate({side: workers[side].sample for side in sides}, rounds=rounds)
    for side in sides:
        milliseconds = workers[side].log1p_milliseconds()
        found = {"found": "slow" if milliseconds > SLOW else "fast", "log1p_ms": round(milliseconds, 1)}
        report.add(**what, side=side, **figures(samples[side]), **found)


def in_state(worker: Worker, state: str, threads: int) -> Worker:
    """The worker in a state of ``log1p``; the slow one does not come back in the same process."""
    if state == "fast":
        worker.end_slow_state()
    elif worker.log1p_milliseconds() < SLOW:
        worker.close()
        worker = Worker(worker.side, threads)
    return worker


def main() -> None:
    parser = arguments(__doc__, json_name="losses")
    parser.add_argument("--methods", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--sides", nargs="+", choices=SIDES["FCOS"], default=SIDES["FCOS"])
    parser.add_argument("--objects", nargs="+", type=int, default=[8, 64, 128, 512])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    counts, rounds = (args.objects[:1], 1) if args.quick else (args.objects, args.rounds)
    title, question = "Losses with label assignment, forward and backward", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=INDEX) as report:
        workers = available_sides(args.sides, args.threads)
        for state in ("fast", "slow"):
            for method in args.methods:
                for side in SIDES[method]:
                    if side in workers:
                        workers[side] = in_state(workers[side], state, args.threads)
                for what, case, given in cases([method], counts, quick=args.quick):
                    measure(report, workers, {"state": state, **what}, case, given, rounds)
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
