"""How long does it take from the maps of a head to the detections of an image, beside other toolboxes?

    python benchmarks/postprocessing.py

One image of 800 x 1344, 80 classes, 100 detections; the maps of a trained detector (few scores pass the threshold) and of one at the start
of its training (very many pass). Every side with the settings of its own config, NMS at IoU 0.6 everywhere. "FCOS, as Detectron2" is ours
with the settings of Detectron2's FCOS: that both give the same detections is asserted first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from inputs import SCORES
from peers.worker import available_sides
from timing import Report, Sample, arguments

SIDES = {
    "FCOS": ["ours", "torchvision", "Detectron2", "mmdetection"],
    "FCOS, as Detectron2": ["ours", "Detectron2"],
    "ATSS": ["ours", "mmdetection"],
    "DW": ["ours"],
}


def main() -> None:
    parser = arguments(__doc__, json_name="postprocessing")
    parser.add_argument("--methods", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=41)
    args = parser.parse_args()
    methods, rounds = (args.methods[:1], 3) if args.quick else (args.methods, args.rounds)
    title, question = "Post-processing of one image", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["scores", "method"]) as report:
        workers = available_sides(["ours", "torchvision", "Detectron2", "mmdetection"], args.threads)
        for worker in workers.values():
            worker.end_slow_state()
        for scores in reversed(SCORES):
            if "ours" in workers and not workers["ours"].value("agrees_with_detectron2", scores=scores):
                sys.exit("Ours and Detectron2 do not give the same detections, so there is nothing to compare.")
            for method in methods:
                sides: dict[str, Callable[[], Sample]] = {side: workers[side].sample for side in SIDES[method] if side in workers}
                for side in sides:
                    workers[side].make("postprocessing", method=method, scores=scores)
                report.compare({"scores": scores, "method": method}, sides, rounds=rounds, warm_up=3)
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
