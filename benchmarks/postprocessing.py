"""How long does it take from the maps of a head to the detections of an image?

    python benchmarks/postprocessing.py

One image of 800x1333, 80 classes, 100 detections; the maps of a trained detector (few scores pass the threshold) and of one at the start
of its training (very many pass). Ours as FCOS, ATSS and DW are configured, and with the settings of Detectron2's FCOS, where the
detections of both have to be the same before anything is timed; torchvision's and Detectron2's FCOS with their own settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dense_peers import IMAGE_SIZE, Detectron2Peer, Maps, TorchvisionPeer, our_detector
from rounds import environment, in_turn, keep_freed_memory, write_json

from detkit.structures import DenseOutputs

#: mean and standard deviation of the class logits
SCORES = {"trained-like": (-7.0, 1.3), "initial-like": (-4.6, 0.8)}
#: sections of the config; the last one has the settings of Detectron2's FCOS
OURS = {"FCOS": "FCOS", "ATSS": "ATSS", "DW": "DW", "FCOS, as Detectron2": "FCOS"}
#: of the maps, where they are not distances
KINDS = {"ATSS": "atss"}
AS_DETECTRON2 = ("TEST.SCORE", "sqrt_product", "TEST.THRESHOLD_ON", "score", "TEST.SCORE_THRESH", 0.2, "TEST.CLIP_BEFORE_NMS", False)


def sides(names: list[str]) -> dict[str, Callable[[Maps], Any]]:
    """What is timed, by name."""
    calls: dict[str, Callable[[Maps], Any]] = {}
    for name in names:
        detector = our_detector(OURS[name], *(AS_DETECTRON2 if name == "FCOS, as Detectron2" else ())).eval()
        calls[name] = lambda maps, detector=detector: detector.detect(DenseOutputs(maps.logits, maps.boxes, maps.quality), [IMAGE_SIZE])
    return calls | {"torchvision's FCOS": TorchvisionPeer().detect, "Detectron2's FCOS": Detectron2Peer().detect}


def refuse_other_detections(calls: dict[str, Callable[[Maps], Any]], maps: Maps) -> None:
    """Ends the program where ours with Detectron2's settings gives other detections than Detectron2."""
    (ours,), (theirs,) = calls["FCOS, as Detectron2"](maps.copy()), calls["Detectron2's FCOS"](maps.copy())
    same = len(ours) == len(theirs) and ours.pred_classes.equal(theirs.pred_classes)
    same = same and ours.scores.allclose(theirs.scores) and ours.pred_boxes.tensor.allclose(theirs.pred_boxes.tensor, atol=1e-3)
    if not same:
        sys.exit("Ours and Detectron2 do not give the same detections, so there is nothing to compare.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detectors", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--seconds", type=float, default=10.0, help="per kind of scores")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/postprocessing.json"))
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"environment": environment(), "milliseconds": {}}
    print(report["environment"])
    print(f"{'milliseconds of processor time':34}{'median':>9}{'quartiles':>20}{'fastest peer / it':>20}")
    with torch.no_grad():
        calls = sides(args.detectors)
        for scores, (mean, std) in SCORES.items():
            maps = {kind: Maps.make(kind, batch=1, mean=mean, std=std) for kind in ("fcos", "atss")}
            if "FCOS, as Detectron2" in calls:
                refuse_other_detections(calls, maps["fcos"])
            times = in_turn(calls, lambda name, maps=maps: maps[KINDS.get(name, "fcos")].copy(), seconds=args.seconds)
            fastest = min(times[name]["median"] for name in times if name not in OURS)
            for name, row in times.items():
                quartiles = f"{row['low']:.1f} .. {row['high']:.1f}"
                print(f"{scores + ', ' + name:34}{row['median']:9.2f}{quartiles:>20}{fastest / row['median']:20.2f}", flush=True)
            report["milliseconds"][scores] = times
    write_json(args.output, report)


if __name__ == "__main__":
    main()
