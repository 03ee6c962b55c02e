"""How long does the loss of a batch take with each weighting, and how much memory does it need?

    python benchmarks/weightings.py

A batch of 2 at 800 x 1344: five levels (22 400 locations), 80 classes, 8 to 128 objects per image; from the maps of a head to the losses
(forward), and with the gradient down to the maps (whole). Hard labels are trained with focal loss by the same criterion. Memory is
what the process grows by at its peak.
"""

from __future__ import annotations

from functools import partial

import torch
from inputs import LEVELS, NUM_CLASSES, STRIDES, dense_maps, objects
from timing import Report, alternate, arguments, clocked, figures, peak_growth, same_conditions

from detkit.assigners import AssignContext, build_assigner
from detkit.config import get_cfg
from detkit.dense.criteria import WeightedCriterion
from detkit.geometry import Grid, PointBoxCoder, Priors, square_anchors
from detkit.losses import giou_loss
from detkit.structures import DenseOutputs, GroundTruth, Predictions

NAMES = [
    *("DWAssigner", "GFLAssigner", "VFLAssigner", "TaskAlignedAssigner", "MuSuAssigner", "AutoAssignAssigner"),
    *("PAAAssigner", "SimOTAAssigner", "OTAAssigner", "OneNetAssigner", "POTOAssigner", "FoveaBoxAssigner", "FCOSAssigner", "ATSSAssigner"),
]


class Problem:
    """The loss of one batch, from the maps of a head.

    Args:
        name: of the assigner.
        num_gts: objects per image.
    """

    def __init__(self, name: str, num_gts: int) -> None:
        cfg = get_cfg()
        self.assigner = build_assigner(name, cfg, key="the name of the assigner", num_classes=NUM_CLASSES)
        self.criterion = WeightedCriterion(num_classes=NUM_CLASSES, box_loss=giou_loss)
        self.coder = PointBoxCoder("relu")
        self.grid = Grid(tuple(LEVELS), STRIDES, 0.5, torch.device("cpu"))
        boxes, classes = zip(*(objects(num_gts, image) for image in range(2)), strict=True)
        self.gt = GroundTruth(torch.stack(boxes), torch.stack(classes), valid=torch.ones(2, num_gts, dtype=torch.bool))
        logits, distances, quality = dense_maps("distances")
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


def main() -> None:
    parser = arguments(__doc__, json_name="weightings")
    parser.add_argument("--assigners", nargs="+", default=NAMES)
    parser.add_argument("--gts", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    same_conditions(args.threads)
    torch.rand(64).pow(torch.rand(64))  # ends the slow state of log1p (benchmarks/losses.py)
    names, counts, rounds = (args.assigners[:2], args.gts[:1], 2) if args.quick else (args.assigners, args.gts, args.rounds)
    title, question = "Losses of all weightings", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick) as report:
        for name in names:
            for count in counts:
                if report.has(assigner=name, objects=count):
                    continue
                problem = Problem(name, count)
                memory = peak_growth(problem.backward)
                ways = {"forward": partial(clocked, problem.forward), "whole": partial(clocked, problem.backward)}
                samples = alternate(ways, rounds=rounds, warm_up=2, seconds=6)
                forward = {key.replace("cpu_", "forward_"): x for key, x in figures(samples["forward"]).items() if key.startswith("cpu")}
                report.add(assigner=name, objects=count, memory_mib=round(memory), **forward, **figures(samples["whole"]))


if __name__ == "__main__":
    main()
