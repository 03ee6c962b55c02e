"""How long does label assignment take, beside the dense way that compares all priors with all objects?

    python benchmarks/assigners.py

One 800x1344 image, five levels (22 400 locations), 1 to 1000 objects. Peers: the dense computation of the same rules, as most codes do
it (written here), for the IoU thresholds Detectron2's ``Matcher``. Equal labels are asserted before anything is timed.
The boxes come from ``bench_data.py`` in the folder ``DETKIT_BENCH_DATA`` (default ``../shared/benchmarks``).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from detkit.assigners import AssignContext, Assigner, ATSSAssigner, FCOSAssigner, IoUAssigner
from detkit.geometry import Grid, Priors, boxes_to_ltrb, elementwise_iou, square_anchors
from detkit.structures import GroundTruth

DATA = Path(os.environ.get("DETKIT_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "benchmarks"))
#: glibc hands freed memory back and asks for it again at every large tensor unless told so; both sides are timed without that
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
RANGES = [(-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf"))]


def dense_fcos(boxes: Tensor, priors: Priors, radius: float) -> Tensor:
    """All distances of all points to all boxes, (P, G, 4), then the smallest area."""
    ltrb = boxes_to_ltrb(boxes[None], priors.points[:, None])
    allowed = ltrb.amin(-1) > 0
    if radius:
        centers, reach = (boxes[:, :2] + boxes[:, 2:]) / 2, priors.strides[:, None] * radius
        sides = torch.cat([centers - reach[..., None], centers + reach[..., None]], dim=-1)
        allowed &= boxes_to_ltrb(sides, priors.points[:, None]).amin(-1) > 0
    sizes = [height * width for height, width in priors.grid.sizes]
    bounds = torch.cat([torch.tensor([r]).expand(n, 2) for r, n in zip(RANGES, sizes, strict=True)])
    farthest = ltrb.amax(-1)
    allowed &= (farthest >= bounds[:, :1]) & (farthest <= bounds[:, 1:])
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).expand(len(ltrb), -1)
    smallest, gt_index = areas.masked_fill(~allowed, torch.inf).min(dim=1)
    return gt_index.masked_fill(smallest == torch.inf, -1)


def dense_atss(boxes: Tensor, priors: Priors, k: int = 9) -> Tensor:
    """IoU and center distance of all anchors and all boxes, (P, G), top-k of every level."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    ious = elementwise_iou(priors.boxes[:, None], boxes[None])
    distances = (priors.points[:, None] - centers[None]).square().sum(-1).sqrt()
    starts = priors.grid.level_starts
    candidates = torch.cat(
        [distances[first:last].topk(min(k, last - first), dim=0, largest=False).indices + first for first, last in pairwise(starts)]
    )
    candidate_ious = ious.gather(0, candidates)
    thresholds = candidate_ious.mean(0) + candidate_ious.std(0)
    inside = boxes_to_ltrb(boxes[None], priors.points[candidates]).amin(-1) > 0.01
    positive = (candidate_ious >= thresholds) & inside
    wanted = torch.full_like(ious, -torch.inf)
    wanted.scatter_(0, candidates, candidate_ious.masked_fill(~positive, -torch.inf))
    best, gt_index = wanted.max(dim=1)
    return gt_index.masked_fill(best == -torch.inf, -1)


def detectron2_iou(boxes: Tensor, priors: Priors) -> Tensor:
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(pairwise_iou(Boxes(boxes), Boxes(priors.boxes)))
    return torch.where(labels == 1, matches, -1)


METHODS: dict[str, tuple[Assigner, Callable[[Tensor, Priors], Tensor]]] = {
    "ATSS": (ATSSAssigner(), dense_atss),
    "FCOS, center sampling": (FCOSAssigner(center_radius=1.5), lambda boxes, priors: dense_fcos(boxes, priors, 1.5)),
    "FCOS": (FCOSAssigner(center_radius=0.0), lambda boxes, priors: dense_fcos(boxes, priors, 0.0)),
    "IoU thresholds": (IoUAssigner(), detectron2_iou),
}


def milliseconds(call: Callable[[], object], seconds: float) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile of the time of a call, over as many calls as fit (at least 7), after a warm-up."""
    times: list[float] = []
    warm_up, end = time.perf_counter() + seconds / 4, time.perf_counter() + 1.25 * seconds
    while len(times) < 7 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        elapsed = time.perf_counter() - start
        if start >= warm_up or elapsed > seconds:
            times.append(1e3 * elapsed)
    tenths = statistics.quantiles(times, n=10)
    return statistics.median(times), tenths[0], tenths[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gts", type=int, nargs="+", default=[1, 8, 32, 128, 512, 1000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)  # read when a process starts
    if not (DATA / "bench_data.py").is_file():
        sys.exit(f"{DATA / 'bench_data.py'} does not exist: set DETKIT_BENCH_DATA to the folder that has it.")
    sys.path.insert(0, str(DATA))
    import bench_data

    torch.set_num_threads(args.threads)
    grid = Grid(tuple(bench_data.LEVELS), tuple(bench_data.STRIDES), 0.5, torch.device("cpu"))
    priors = Priors(grid, square_anchors(grid.strides))
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {args.threads} thread(s) of {os.cpu_count()}, {_processor()}")
    print(f"{priors.num_priors} priors; median ms (10 % .. 90 %)")
    print(f"{'':24}{'objects':>8}{'ours':>26}{'dense':>30}{'ratio':>8}")
    for name, (assigner, dense) in METHODS.items():
        for count in args.gts:
            boxes, classes = (torch.from_numpy(x) for x in bench_data.gts(count))
            context = AssignContext(GroundTruth(boxes[None], classes[None], torch.ones(1, count, dtype=torch.bool)), priors)
            if not assigner(context).gt_index[0].equal(dense(boxes, priors)):
                sys.exit(f"{name} with {count} objects: the two do not give the same labels, so there is nothing to compare.")
            ours = milliseconds(lambda: assigner(context), args.seconds)  # noqa: B023
            theirs = milliseconds(lambda: dense(boxes, priors), args.seconds)  # noqa: B023
            columns = [f"{median:9.2f} ({low:.2f} .. {high:.2f})" for median, low, high in (ours, theirs)]
            print(f"{name:24}{count:8}{columns[0]:>26}{columns[1]:>30}{theirs[0] / ours[0]:8.1f}", flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
