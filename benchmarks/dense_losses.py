"""How long do assignment and losses of a batch take beside torchvision's and Detectron2's FCOS, forward and backward?

    python benchmarks/dense_losses.py

A batch of 2 at 800x1333, 80 classes, from the maps of the head to the losses and back to the gradient of the maps. Every number of objects
is timed in two processes of its own: on some processors ``log1p``, ``expm1`` and ``softplus`` are ten times slower until the first
vectorized ``pow`` of the process, which one of the two runs at its start and the other never does (it counts as slow where the two differ).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dense_peers import IMAGE_SIZE, Detectron2Peer, Maps, TorchvisionPeer, objects, our_detector
from detectron2.structures import Instances
from rounds import environment, in_turn, keep_freed_memory, write_json

from detkit.structures import DenseOutputs

OURS = {"FCOS": "fcos", "ATSS": "atss", "DW": "fcos"}  # and the kind of their maps


def our_losses(detector: Any, maps: Maps, gt: list[Instances]) -> dict[str, torch.Tensor]:
    """The losses of one of our detectors, packing the objects included."""
    outputs = DenseOutputs(maps.logits, maps.boxes, maps.quality)
    return detector.losses(outputs, detector.ground_truth(gt), [IMAGE_SIZE] * len(gt))


def step(losses: Callable[[Maps, list[Instances]], dict[str, torch.Tensor]], gt: list[Instances], maps: Maps) -> None:
    """Forward and backward."""
    torch.autograd.grad(torch.stack([x.reshape(()) for x in losses(maps, gt).values()]).sum(), maps.all)


def slowness() -> float:
    """How many times as long ``log1p`` takes as ``log``."""
    values = torch.rand(1 << 20) + 0.1
    times = in_turn({"log1p": lambda _: values.log1p(), "log": lambda _: values.log()}, lambda _: None, seconds=0.2)
    return times["log1p"]["median"] / times["log"]["median"]


def measure(count: int, detectors: list[str], seconds: float, fast: bool) -> dict[str, Any]:
    """Milliseconds by name, of this number of objects per image."""
    if fast:
        torch.rand(1 << 20).pow(1.7)
    calls = {name: partial(our_losses, our_detector(name).train()) for name in detectors}
    calls |= {"torchvision's FCOS": TorchvisionPeer().losses, "Detectron2's FCOS": Detectron2Peer().losses}
    gt = objects(count)
    maps = {kind: Maps.make(kind) for kind in set(OURS.values())}
    sides = {name: partial(step, call, gt) for name, call in calls.items()}
    times = in_turn(sides, lambda name: maps[OURS.get(name, "fcos")].copy(grad=True), seconds=seconds)
    return {"log1p_by_log": slowness(), "milliseconds": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detectors", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--objects", type=int, nargs="+", default=[8, 64, 128, 512])
    parser.add_argument("--seconds", type=float, default=10.0, help="per number of objects and state")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/dense_losses.json"))
    parser.add_argument("--one", choices=("fast", "slow"), help="print the figures of one process as json (used by the program itself)")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(args.objects[0], args.detectors, args.seconds, args.one == "fast")))
        return
    report: dict[str, Any] = {"environment": environment(), "objects": {}}
    print(report["environment"])
    print(f"{'objects, log1p':18}{'':22}{'median ms':>10}{'quartiles':>18}{'best peer / it':>16}")
    for count in args.objects:
        for state in ("slow", "fast"):
            own = [sys.executable, "-W", "ignore", __file__, "--one", state, "--objects", str(count), "--seconds", str(args.seconds)]
            own += ["--threads", str(args.threads), "--detectors", *args.detectors]
            result = json.loads(subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout)
            report["objects"].setdefault(str(count), {})[state] = result
            times = result["milliseconds"]
            best = min(row["median"] for name, row in times.items() if name not in OURS)
            for name, row in times.items():
                quartiles = f"{row['low']:.1f} .. {row['high']:.1f}"
                left = f"{count}, {result['log1p_by_log']:.1f} x log"
                print(f"{left:18}{name:22}{row['median']:10.1f}{quartiles:>18}{best / row['median']:16.2f}", flush=True)
    write_json(args.output, report)


if __name__ == "__main__":
    main()
