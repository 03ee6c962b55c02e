"""How long does a whole detector take, from an image to its detections, beside its network alone and beside other toolboxes?

    python benchmarks/inference.py
    python benchmarks/inference.py --methods FCOS --size 800 1333

ResNet-50, one image of 800 x 1333, random weights, every side a process of its own with one thread. "limit" is our network alone, in our
process, from the padded image to raw outputs: no detector of this network goes below. "of the limit" compares a side with it in the same
round, which on a machine that others use is true to some percent; ours with what its network took in the same call, which is true to a
thousandth. DW refined stands beside mmdetection's TOOD. Parameters and multiply-adds of ours are counted, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from peers.worker import Worker, available_sides
from timing import Report, Sample, alternate, arguments, figures

SIDES = {
    "FCOS": ["ours", "torchvision", "Detectron2", "mmdetection"],
    "ATSS": ["ours", "mmdetection"],
    "DW, refined": ["ours", "mmdetection"],
    "Sparse R-CNN": ["ours", "mmdetection"],
    "Sparse R-CNN, 300": ["ours", "mmdetection"],
    "LSNet": ["ours"],
}


def measure(report: Report, workers: dict[str, Worker], method: str, size: tuple[int, int], rounds: int) -> None:
    """A row for each side that runs here, unless they are there."""
    what: dict[str, Any] = {"method": method, "height": size[0], "width": size[1]}
    if report.has(**what):
        return
    sides = [side for side in SIDES[method] if side in workers]
    for side in sides:
        workers[side].make("inference", method=method, size=size)
    calls: dict[str, Callable[[], Sample]] = {side: workers[side].sample for side in sides}
    if "ours" in calls:  # the same model in the same process
        workers["ours"].make("limit", name="limit", method=method, size=size)
        calls["limit"] = partial(workers["ours"].sample, "limit")
    samples = alternate(calls, rounds=rounds)
    if "ours" not in samples:
        for side in samples:
            report.add(**what, side=side, **figures(samples[side]))
        return
    limit = [each.processor for each in samples["limit"]]
    network = workers["ours"].value("in_network")[-len(limit) :]
    cost = workers["ours"].value("cost", method=method, size=size)
    for side, taken in samples.items():
        ours = side == "ours"
        of_limit = _ratio([each.processor for each in taken], network if ours else limit)
        report.add(**what, side=side, **figures(taken), of_limit=of_limit, **(cost if ours else {}))


def _ratio(seconds: list[float], limit: list[float]) -> float:
    """The median of the ratios of the rounds."""
    return round(statistics.median(mine / least for mine, least in zip(seconds, limit, strict=True)), 4)


def main() -> None:
    parser = arguments(__doc__, json_name="inference")
    parser.add_argument("--methods", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    methods, rounds, size = args.methods, args.rounds, tuple(args.size)
    if args.quick:
        methods, rounds, size = methods[:1], 1, (128, 160)
    title, question = "Inference of whole detectors", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["method"]) as report:
        workers = available_sides(["ours", "torchvision", "Detectron2", "mmdetection"], args.threads)
        for worker in workers.values():
            worker.end_slow_state()
        for method in methods:
            measure(report, workers, method, size, rounds)
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
