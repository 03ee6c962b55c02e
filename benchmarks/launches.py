"""How many operations does a training step launch on a GPU, and for how many does it wait? Counted without a GPU, beside other toolboxes.

    python benchmarks/launches.py

ResNet-50, two images, forward with the losses and backward, the second step; views and empty tensors launch nothing. Ours is counted on a
device that has shapes alone, where a value cannot be read: the waits are the hand-over of costs to matching. The others are counted on
a CPU, with mmdetection's focal loss as one operator; their waits are the values and the sizes that depend on values which the host
reads, copies between devices left out. DW stands beside mmdetection's TOOD.
"""

from __future__ import annotations

from peers.worker import available_sides
from timing import Report, arguments

SIDES = {
    "FCOS": ["ours", "torchvision", "Detectron2", "mmdetection"],
    "ATSS": ["ours", "mmdetection"],
    "DW": ["ours", "mmdetection"],
    "Sparse R-CNN": ["ours", "mmdetection"],
    "LSNet": ["ours"],
}


def main() -> None:
    parser = arguments(__doc__, json_name="launches")
    parser.add_argument("--methods", nargs="+", choices=list(SIDES), default=list(SIDES))
    args = parser.parse_args()
    title, question = "Launches of a training step", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["method"], value="launches") as report:
        workers = available_sides(["ours", "torchvision", "Detectron2", "mmdetection"], args.threads)
        for method in args.methods[:1] if args.quick else args.methods:
            for side in SIDES[method]:
                if side in workers and not report.has(method=method, side=side):
                    report.add(method=method, side=side, **workers[side].value("launches", method=method))
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
