"""How long does the loss of a batch take with each weighting, and how much memory does it need?

    python benchmarks/weightings.py

A batch of 2 at 800x1344: five levels (22 400 locations), 80 classes, 8 to 128 objects per image; from the maps of a head to the losses
(forward), and with the gradient down to the maps (+ backward). Hard labels are trained with focal loss by the same criterion. Times are
processor times, which other programs on the machine disturb less than the clock's. Memory is what the process grows by at its peak.

The boxes and maps come from ``bench_data.py`` in the folder ``DETKIT_BENCH_DATA`` (default ``../shared/benchmarks``), which also holds
the times of the published DW code on them (``timing_dw.json``), measured on a machine of the same kind; they are shown beside ours.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detkit.assigners import AssignContext, build_assigner
from detkit.config import get_cfg
from detkit.dense.criteria import WeightedCriterion
from detkit.geometry import Grid, PointBoxCoder, Priors, square_anchors
from detkit.losses import giou_loss
from detkit.structures import DenseOutputs, GroundTruth, Predictions

DATA = Path(os.environ.get("DETKIT_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "benchmarks"))
#: glibc hands freed memory back and asks for it again at every large tensor unless told so; both sides are timed without that
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
NUM_CLASSES = 80
NAMES = [
    *("DWAssigner", "GFLAssigner", "VFLAssigner", "TaskAlignedAssigner", "MuSuAssigner", "AutoAssignAssigner"),
    *("PAAAssigner", "SimOTAAssigner", "OTAAssigner", "FoveaBoxAssigner", "FCOSAssigner", "ATSSAssigner"),
]


class Problem:
    """The loss of one batch, from the maps of a head.

    Args:
        name: of the assigner.
        num_gts: objects per image.
        bench_data: the module that makes the inputs.
    """

    def __init__(self, name: str, num_gts: int, bench_data: Any) -> None:
        cfg = get_cfg()
        self.assigner = build_assigner(name, cfg, key="the name of the assigner", num_classes=NUM_CLASSES)
        self.criterion = WeightedCriterion(num_classes=NUM_CLASSES, box_loss=giou_loss)
        self.coder = PointBoxCoder("relu")
        self.grid = Grid(tuple(bench_data.LEVELS), tuple(bench_data.STRIDES), 0.5, torch.device("cpu"))
        boxes, classes = zip(*(bench_data.gts(num_gts, image) for image in range(2)), strict=True)
        stacked = (torch.stack([torch.from_numpy(x) for x in parts]) for parts in (boxes, classes))
        self.gt = GroundTruth(*stacked, valid=torch.ones(2, num_gts, dtype=torch.bool))
        logits, distances, quality = ([torch.from_numpy(x) for x in maps] for maps in bench_data.raw("fcos"))
        distances = [x / stride for x, stride in zip(distances, bench_data.STRIDES, strict=True)]
        self.maps = [x.requires_grad_() for x in (*logits, *distances, *quality)]

    def forward(self) -> torch.Tensor:
        """The sum of the losses."""
        priors = Priors(self.grid, square_anchors(self.grid.strides))
        levels = self.grid.num_levels
        outputs = DenseOutputs(self.maps[:levels], self.maps[levels : 2 * levels], self.maps[2 * levels :])
        logits, raw, quality = outputs.flatten(NUM_CLASSES)
        predictions = Predictions(logits, self.coder.decode(raw, priors), quality)
        assignment = self.assigner(AssignContext(self.gt, priors, predictions))
        return torch.stack(list(self.criterion(predictions, assignment, self.gt, priors).values())).sum()

    def backward(self) -> None:
        """The losses, and their gradient down to the maps."""
        torch.autograd.grad(self.forward(), self.maps)


def milliseconds(call: Callable[[], object], seconds: float) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile of the processor time of a call, over as many calls as fit (at least 7), after two to warm up."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 7 or time.perf_counter() < end:
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    tenths = statistics.quantiles(times, n=10)
    return statistics.median(times), tenths[0], tenths[-1]


def peak_growth(call: Callable[[], object]) -> float:
    """MiB by which the resident memory grows at the peak of a call (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again, and not seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure(name: str, num_gts: int, seconds: float, bench_data: Any) -> dict[str, Any]:
    """Times in milliseconds and peak memory in MiB of one weighting."""
    problem = Problem(name, num_gts, bench_data)
    memory = peak_growth(problem.backward)
    return {"forward": milliseconds(problem.forward, seconds), "backward": milliseconds(problem.backward, seconds), "memory": memory}


def published() -> dict[int, tuple[float, float]]:
    """Forward and forward + backward of strongwolf/DW in milliseconds, by objects per image."""
    path = DATA / "timing_dw.json"
    if not path.is_file():
        return {}
    times = json.loads(path.read_text())["loss_800x1344"]
    return {int(count): (row["forward"]["cpu_ms"], row["forward_backward"]["cpu_ms"]) for count, row in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assigners", nargs="+", default=NAMES)
    parser.add_argument("--gts", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--one", action="store_true", help="print the figures of one weighting as json (used by the program itself)")
    args = parser.parse_args()
    if not (DATA / "bench_data.py").is_file():
        sys.exit(f"{DATA / 'bench_data.py'} does not exist: set DETKIT_BENCH_DATA to the folder that has it.")
    sys.path.insert(0, str(DATA))
    import bench_data

    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(args.assigners[0], args.gts[0], args.seconds, bench_data)))
        return
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {args.threads} thread(s) of {os.cpu_count()}")
    print(f"load of the machine {os.getloadavg()[0]:.1f}; median ms (10 % .. 90 %)")
    print(f"{'':22}{'objects':>8}{'forward':>26}{'+ backward':>26}{'MiB':>8}")
    for name in args.assigners:
        for count in args.gts:
            own = [sys.executable, "-W", "ignore", __file__, "--one", "--assigners", name, "--gts", str(count)]
            own += ["--seconds", str(args.seconds), "--threads", str(args.threads)]
            result = json.loads(subprocess.run(own, env=os.environ | MALLOC, check=True, capture_output=True, text=True).stdout)
            columns = [f"{m:9.1f} ({low:.1f} .. {high:.1f})" for m, low, high in (result["forward"], result["backward"])]
            print(f"{name:22}{count:8}{columns[0]:>26}{columns[1]:>26}{result['memory']:8.0f}", flush=True)
    for count, (forward, both) in published().items():
        print(f"{'(strongwolf/DW)':22}{count:8}{forward:9.1f}{'':17}{both:9.1f}")


if __name__ == "__main__":
    main()
