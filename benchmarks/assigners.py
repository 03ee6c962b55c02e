"""How long does label assignment take, beside the dense way that compares all priors with all objects?

    python benchmarks/assigners.py

One 800 x 1344 image, five levels (22 400 locations), 1 to 1000 objects. The dense computation of the same rules, as most codes do it, is
written here; for the IoU thresholds it is Detectron2's ``Matcher``. Equal labels are asserted before anything is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from inputs import LEVELS, STRIDES, objects
from timing import Report, arguments, clocked, same_conditions
from torch import Tensor

from detkit.assigners import AssignContext, Assigner, ATSSAssigner, FCOSAssigner, IoUAssigner
from detkit.geometry import Grid, Priors, boxes_to_ltrb, elementwise_iou, square_anchors
from detkit.structures import GroundTruth, HardAssignment

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


def main() -> None:
    parser = arguments(__doc__, json_name="assigners")
    parser.add_argument("--gts", type=int, nargs="+", default=[1, 8, 32, 128, 512, 1000])
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    same_conditions(args.threads)
    counts, rounds = (args.gts[:2], 2) if args.quick else (args.gts, args.rounds)
    grid = Grid(tuple(LEVELS), STRIDES, 0.5, torch.device("cpu"))
    priors = Priors(grid, square_anchors(grid.strides))
    title, question = "Label assignment of one image", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["rule", "objects"]) as report:
        for name, (assigner, dense) in METHODS.items():
            for count in counts:
                boxes, classes = objects(count)
                context = AssignContext(GroundTruth(boxes[None], classes[None], torch.ones(1, count, dtype=torch.bool)), priors)
                assignment = assigner(context)
                assert isinstance(assignment, HardAssignment)
                if not assignment.gt_index[0].equal(dense(boxes, priors)):
                    sys.exit(f"{name} with {count} objects: the two do not give the same labels, so there is nothing to compare.")
                ways: dict[str, Callable[[], object]] = {"ours": partial(assigner, context), "dense": partial(dense, boxes, priors)}
                sides = {side: partial(clocked, way) for side, way in ways.items()}
                report.compare({"rule": name, "objects": count}, sides, rounds=rounds, warm_up=2, seconds=5)


if __name__ == "__main__":
    main()
