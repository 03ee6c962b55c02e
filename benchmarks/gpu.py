"""What do training steps and inference take on a GPU, for how much does the host wait, how much memory is used? In ten minutes at most.

    python benchmarks/gpu.py                            # on a machine with a GPU; needs no network
    python benchmarks/gpu.py --device cpu --quick       # does it run?

All five methods, torchvision's and Detectron2's FCOS, and mmdetection's detectors where Python can import them; ResNet-50, 800 x 1344,
8 objects per image, random weights; batch 1 and 16, float32 and mixed precision, as they are and compiled. A training step is everything
from images and objects on the host to the step of the optimizer (SGD). The sides take turns in every round. Memory is the peak of a call
with the weights, without the other sides'. Waits are the warnings of ``torch.cuda.set_sync_debug_mode`` in one call.

The rows that tell most come first, each is written as soon as it is there, and the script ends in time by itself. A side that runs out
of memory, or fails otherwise, gives a row that says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from timing import Report, Sample, alternate, arguments, clocked, figures

METHODS = ("FCOS", "ATSS", "DW", "Sparse R-CNN", "LSNet")
#: module of each other side, the package that it needs, and its methods
PEERS = {
    "torchvision": ("torchvision_side", "torchvision", {"FCOS"}),
    "Detectron2": ("detectron2_side", "detectron2", {"FCOS"}),
    "mmdetection": ("mmdetection_side", "mmdet", {"FCOS", "ATSS", "DW", "Sparse R-CNN"}),
}
INDEX = ["task", "method", "batch", "precision", "compiled"]


class Question(NamedTuple):
    """What is measured, of all sides that have the method."""

    task: str
    method: str
    batch: int
    precision: str
    compiled: bool = False


def questions(batches: tuple[int, int]) -> Iterator[Question]:
    """In order of importance."""
    one, many = batches
    for precision in ("float32", "mixed"):
        for task, batch in (("training", many), ("inference", one)):
            yield from (Question(task, method, batch, precision) for method in METHODS)
    for task, batch in (("training", many), ("inference", one)):
        yield from (Question(task, method, batch, "mixed", compiled=True) for method in METHODS)
    for precision in ("mixed", "float32"):
        for task, batch in (("training", one), ("inference", many)):
            yield from (Question(task, method, batch, precision) for method in METHODS)
    for task, batch in (("training", many), ("inference", one)):
        yield from (Question(task, method, batch, "float32", compiled=True) for method in METHODS)


def call_of(side: str, question: Question, device: str, size: tuple[int, int]) -> tuple[Callable[[], object], Callable[[], int]]:
    """What one call of a side does, and the bytes that it holds between two calls: weights, gradients, state of the optimizer."""
    training = question.task == "training"
    module = importlib.import_module(f"peers.{PEERS[side][0] if side in PEERS else 'our_side'}")
    changes = COMPILED[question.task] if question.compiled else ()
    model, forward = module.detector(question.method, *changes, training=training, size=size, batch=question.batch, device=device)
    module.build.cache_clear()  # or the weights of one side after the other would stay
    dtype = {"cpu": torch.bfloat16}.get(device, torch.float16)
    cast = partial(torch.autocast, device, dtype=dtype, enabled=question.precision == "mixed")
    weights = [*model.parameters(), *model.buffers()]
    if not training:

        def detect() -> None:
            with torch.inference_mode(), cast():
                forward()

        return detect, lambda: sum(x.nbytes for x in weights)
    trained = [p for p in model.parameters() if p.requires_grad]
    # as each side's own trainer takes it: our step is skipped on the device where a gradient is infinite, the others' scaler reads it
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=side not in PEERS and device != "cpu")
    scaler = torch.amp.GradScaler(device, enabled=question.precision == "mixed" and dtype == torch.float16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast():
            loss = forward()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    def held() -> int:
        state = [x for of_one in optimizer.state.values() for x in of_one.values() if isinstance(x, torch.Tensor)]
        return sum(x.nbytes for x in [*weights, *(p.grad for p in trained if p.grad is not None), *state])

    return step, held


#: config keys of ours
COMPILED: dict[str, tuple[Any, ...]] = {"training": ("SOLVER.COMPILE", True), "inference": ("MODEL.COMPILE", True)}


def measure(report: Report, question: Question, sides: list[str], *, device: str, size: tuple[int, int], rounds: int, until: float) -> None:
    """A row for each side."""
    calls: dict[str, Callable[[], object]] = {}
    held: dict[str, Callable[[], int]] = {}
    for side in sides:
        try:
            calls[side], held[side] = call_of(side, question, device, size)
            for _ in range(2):  # kernels are chosen, programs compiled, memory is taken
                calls[side]()
        except Exception as error:  # a row says so, and the others go on
            calls.pop(side, None)
            report.add(**question._asdict(), side=side, failed=_in_words(error))
        if time.monotonic() > until:
            return
    memory = {side: _memory(call, held[side](), device) for side, call in calls.items()}
    waits = {side: _waits(call, device) for side, call in calls.items()}
    samples: dict[str, list[Sample]] = alternate(
        {side: partial(clocked, call) for side, call in calls.items()}, rounds=rounds, seconds=until - time.monotonic()
    )
    for side, values in samples.items():
        report.add(**question._asdict(), side=side, **figures(values), memory_mib=memory[side], waits=waits[side])


def _in_words(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def _memory(call: Callable[[], object], held: int, device: str) -> int | None:
    """MiB at the peak of a call, with the ``held`` bytes that are this side's own before it."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return round((torch.cuda.max_memory_allocated() - before + held) / 2**20)


def _waits(call: Callable[[], object], device: str) -> int | None:
    """How often a call waits for the GPU."""
    if device == "cpu":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def main() -> None:
    parser = arguments(__doc__, json_name="gpu")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=9.5, help="in all, from the start (default: 9.5)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    start = time.monotonic()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch finds no GPU here; --device cpu --quick shows that the script runs.")
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    until = start + 60 * args.minutes
    size, batches, rounds = ((64, 64), (1, 2), 1) if args.quick else ((800, 1344), (1, 16), args.rounds)
    sides = [side for side, (_, package, _) in PEERS.items() if importlib.util.find_spec(package)]
    title = "Training steps and inference on a GPU" if args.device == "cuda" else "Training steps and inference by the script for GPUs"
    with Report(title, str(__doc__).split("\n\n")[2], args.json, quick=args.quick, index=INDEX, value="wall_ms") as report:
        watchdog = threading.Timer(until + 15 - time.monotonic(), _end, [report])  # compiling takes no notice of the time
        watchdog.daemon = True
        watchdog.start()
        longest: dict[bool, float] = {False: 0.0, True: 60.0}
        for question in questions(batches):
            begin = time.monotonic()
            if question.method not in args.methods or report.has(**question._asdict()) or begin + longest[question.compiled] > until:
                continue
            others = [] if question.compiled else [side for side in sides if question.method in PEERS[side][2]]
            measure(report, question, ["ours", *others], device=args.device, size=size, rounds=rounds, until=until)
            if args.device == "cuda":
                torch.cuda.empty_cache()
            longest[question.compiled] = max(longest[question.compiled], time.monotonic() - begin)
        watchdog.cancel()


def _end(report: Report) -> None:
    print("the time is up", flush=True)
    report.finish()
    os._exit(0)


if __name__ == "__main__":
    main()
