"""How do time and memory of the losses grow with the objects of an image?

    python benchmarks/growth.py                     # every assigner and loss; goes on where an interrupted run ended
    python benchmarks/growth.py --losses DW FCOS --objects 64 1000
    python benchmarks/page.py                       # the table and docs/images/performance_growth.png

From the maps of a head (or the proposals of Sparse R-CNN) over label assignment to their gradient: a batch of 2 at 800 x 1344, 80 classes;
both sides of the objects are log-uniform from 8 to 600 pixels, their places uniform. FCOS, ATSS, LSNet and Sparse R-CNN with their own
losses, all other assigners in the place of DW's, with the loss of weighted pairs (hard labels as weights). Memory is what the process
grows by at its peak. ``HungarianAssigner`` serves set predictors: it stands in Sparse R-CNN's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timing import Report, alternate, arguments, clocked, figures, peak_growth, same_conditions

COUNTS = [1, 8, 64, 128, 256, 512, 1000, 2000]
#: assigners with rows of their own; for a detector with two stages (LSNet), or for set predictors (Sparse R-CNN)
ELSEWHERE = {"FCOSAssigner", "ATSSAssigner", "DWAssigner", "CentroidAssigner", "PredictedATSSAssigner", "HungarianAssigner"}

Case = Callable[[int], Callable[[], object]]


def cases() -> dict[str, Case]:
    """By name of a row, what makes the call that is measured, of a number of objects per image."""
    from peers import our_side

    from detkit.assigners import ASSIGNER_REGISTRY

    found: dict[str, Case] = {name: partial(our_side.losses, name) for name in ("FCOS", "ATSS", "DW")}
    found["ATSS, IoU"] = partial(our_side.losses, "ATSS", changes=("MODEL.ATSS.ASSIGNER", "IoUAssigner"))
    found["RetinaNet, IoU"] = retinanet
    for name, _ in ASSIGNER_REGISTRY:
        if name not in ELSEWHERE and name != "IoUAssigner":
            found[name.removesuffix("Assigner")] = partial(our_side.losses, "DW", changes=("MODEL.DW.ASSIGNER", name))
    for count in (100, 300):
        found[f"Sparse R-CNN, {count}"] = partial(our_side.criterion, count)
    found["LSNet"] = lsnet
    return found


def retinanet(count: int) -> Callable[[], object]:
    """The IoU rule with nine anchors per location, of three sizes and three shapes, which are not square."""
    import torch
    from inputs import SIZE, dense_maps
    from peers import our_side

    from detkit.structures import DenseOutputs

    octaves = (
        "ANCHORS.SCALES",
        "[4.0, 5.04, 6.35]",
        "ANCHORS.RATIOS",
        "[0.5, 1.0, 2.0]",
        "HEAD.QUALITY",
        "none",
        "ASSIGNER",
        "IoUAssigner",
    )
    changes = (f"MODEL.ATSS.{x}" if i % 2 == 0 else x for i, x in enumerate(octaves))
    model: Any = our_side.build("ATSS", *changes).train()
    logits, boxes, _ = dense_maps("deltas")
    logits, boxes = ([x.repeat(1, 9, 1, 1).requires_grad_() for x in maps] for maps in (logits, boxes))
    given = our_side.instances(count)

    def run() -> None:
        found = model.losses(DenseOutputs(logits, boxes, None), model.ground_truth(given), [SIZE, SIZE])
        torch.autograd.grad(sum(found.values()), [*logits, *boxes])

    return run


def lsnet(count: int) -> Callable[[], object]:
    """Both stages of LSNet's boxes, with extreme points in the middle of the sides."""
    import torch
    from inputs import LEVELS, SIZE, dense_maps
    from peers import our_side

    from lsnet.head import LSOutputs

    model: Any = our_side.build("LSNet").train()
    logits = [x.requires_grad_() for x in dense_maps("distances")[0]]
    torch.manual_seed(0)
    first, second = (
        {s.name: [(2 * torch.rand(2, 4 * s.num_vectors, *size)).requires_grad_() for size in LEVELS] for s in model.task.sets}
        for _ in range(2)
    )
    given = our_side.instances(count)
    for each in given:
        left, top, right, bottom = each.gt_boxes.tensor.unbind(1)
        x, y = (left + right) / 2, (top + bottom) / 2
        points = torch.stack([x, top, left, y, x, bottom, right, y], dim=1).view(-1, 4, 2)
        each.gt_landmarks = torch.cat([points, torch.full((count, 4, 1), 2.0)], dim=2)
    leaves = [*logits, *(x for stage in (first, second) for maps in stage.values() for x in maps)]

    def run() -> None:
        found = model.losses(LSOutputs(logits, first, second), model.ground_truth(given), [SIZE, SIZE])
        torch.autograd.grad(sum(found.values()), leaves, allow_unused=True)

    return run


def main() -> None:
    names = arguments(__doc__, json_name="growth")
    names.add_argument("--losses", nargs="+", metavar="NAME", help="rows (default: all)")
    names.add_argument("--objects", nargs="+", type=int, default=COUNTS)
    names.add_argument("--rounds", type=int, default=5)
    args = names.parse_args()
    same_conditions(args.threads)
    import torch

    torch.rand(64).pow(torch.rand(64))  # ends the slow state of log1p (benchmarks/losses.py)
    counts, rounds = ([1, 8], 1) if args.quick else (args.objects, args.rounds)
    title, question = "Growth with the objects", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["loss"], value="cpu_ms") as report:
        for name, make in cases().items():
            for count in counts if args.losses is None or name in args.losses else ():
                if report.has(loss=name, objects=count):
                    continue
                call = make(count)
                memory = peak_growth(call)
                row = figures(alternate({"ours": partial(clocked, call)}, rounds=rounds, seconds=3)["ours"])
                row.pop("cpu_low"), row.pop("cpu_high")
                report.add(loss=name, objects=count, side=f"ours, {count}", memory_mib=round(memory), **row)


if __name__ == "__main__":
    main()
