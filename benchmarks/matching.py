"""How long does one-to-one matching take, beside the per-stage way of the published codes?

    python benchmarks/matching.py [--device cuda]

300 proposals, 128 objects, 6 stages, 16 images, 80 classes. Ours computes the costs of all stages and images at once, each image with its
own objects, transfers them once and matches in parallel threads. The peer, written here, goes stage by stage as PeizeSun/SparseR-CNN
does: costs of all proposals with all objects of the batch, a transfer, then SciPy image by image. Equal matchings are asserted first.
"""

from __future__ import annotations

from functools import partial

import torch
from scipy.optimize import linear_sum_assignment
from timing import Report, arguments, clocked, same_conditions
from torch import Tensor
from torchvision.ops import generalized_box_iou

from detkit.assigners import AssignContext, HungarianAssigner
from detkit.structures import GroundTruth, HardAssignment, Predictions

SIDE = 1000.0


def random_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """Boxes (..., 4) of 20 to 320 pixels in a square image."""
    low = (SIDE - 320) * torch.rand(*shape, 2, generator=generator)
    return torch.cat([low, low + 20 + 300 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def per_stage(logits: Tensor, boxes: Tensor, gt: GroundTruth) -> Tensor:
    """The object of each proposal (S, B, N), stage by stage."""
    stages, batch, proposals, _ = logits.shape
    per_image = gt.valid.sum(1).tolist()
    all_classes, all_boxes = gt.classes[gt.valid], gt.boxes[gt.valid]
    result = torch.full((stages, batch, proposals), -1)
    for stage in range(stages):
        p = logits[stage].flatten(0, 1).sigmoid()
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        flat = boxes[stage].flatten(0, 1)
        costs = 5 * torch.cdist(flat / SIDE, all_boxes / SIDE, p=1)
        costs = costs + 2 * (positive[:, all_classes] - negative[:, all_classes]) - 2 * generalized_box_iou(flat, all_boxes)
        for i, own in enumerate(costs.view(batch, proposals, -1).cpu().split(per_image, dim=-1)):
            rows, columns = linear_sum_assignment(own[i].numpy())
            result[stage, i, torch.from_numpy(rows)] = torch.from_numpy(columns)
    return result.to(logits.device)


def all_at_once(logits: Tensor, boxes: Tensor, gt: GroundTruth) -> Tensor:
    """The same by :class:`detkit.assigners.HungarianAssigner`."""
    assignment = HungarianAssigner()(context_of(logits, boxes, gt))
    assert isinstance(assignment, HardAssignment)
    return assignment.gt_index.unflatten(0, logits.shape[:2])


def context_of(logits: Tensor, boxes: Tensor, gt: GroundTruth) -> AssignContext:
    """Stages as more images, as the detector hands them over."""
    stages = len(logits)
    repeated = GroundTruth(gt.boxes.repeat(stages, 1, 1), gt.classes.repeat(stages, 1), gt.valid.repeat(stages, 1))
    sizes = torch.full((len(repeated.boxes), 2), SIDE, device=logits.device)
    return AssignContext(repeated, predictions=Predictions(logits.flatten(0, 1), boxes.flatten(0, 1)), image_sizes=sizes)


def main() -> None:
    parser = arguments(__doc__, json_name="matching")
    for name, default in (("proposals", 300), ("objects", 128), ("stages", 6), ("images", 16), ("classes", 80), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    same_conditions(args.threads)
    if args.quick:
        args.images, args.stages, args.rounds = 2, 2, 1
    device = torch.device(args.device)
    rng = torch.Generator().manual_seed(0)
    predicted = (args.stages, args.images, args.proposals)
    logits = torch.randn(*predicted, args.classes, generator=rng).to(device)
    boxes = random_boxes(*predicted, generator=rng).to(device)
    classes = torch.randint(0, args.classes, (args.images, args.objects), generator=rng)
    valid = torch.ones(args.images, args.objects, dtype=torch.bool)
    gt = GroundTruth(random_boxes(args.images, args.objects, generator=rng).to(device), classes.to(device), valid.to(device))
    same = (per_stage(logits, boxes, gt) == all_at_once(logits, boxes, gt)).float().mean().item()
    assert same == 1.0, f"only {same:.2%} of the proposals are matched alike"
    ways = {"ours": partial(all_at_once, logits, boxes, gt), "stage by stage": partial(per_stage, logits, boxes, gt)}
    title, question = "One-to-one matching", str(__doc__).split("\n\n")[2]
    # ours matches in parallel threads, so that the clock's time counts
    with Report(title, question, args.json, quick=args.quick, index=["proposals", "objects", "images"], value="wall_ms") as report:
        what = {"proposals": args.proposals, "objects": args.objects, "images": args.images}
        report.compare(what, {side: partial(clocked, way) for side, way in ways.items()}, rounds=args.rounds)


if __name__ == "__main__":
    main()
