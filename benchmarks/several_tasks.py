"""What does one detector of LSNet for three tasks cost beside three detectors of one task each?

    python benchmarks/several_tasks.py --runs FOLDER

All are ``quick/lsnet_multitask_shapes``, with all of its tasks and with one of them. Measured are the number of weights, an iteration of
training (losses, gradients, optimizer) on four images, without the loading, and detecting on one image, masks included. ``--runs`` names
a folder with the runs ``bbox+segm+pose``, ``bbox``, ``segm`` and ``pose``, whose weights detect; without it the weights are random, so
that next to nothing is found and no masks are drawn.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from timing import Report, arguments, clocked, same_conditions

from detkit import get_config_file
from detkit.checkpoint import load_weights
from detkit.config import get_cfg
from detkit.data import prepare_datasets
from detkit.engine import Trainer, TrainingStep, build_gradient_clipper, build_optimizer, prepare_for_inference, prepare_for_training

SIDES = ("bbox+segm+pose", "bbox", "segm", "pose")
#: keys of the quick config of poses
OF_POSES = ["MODEL.LSNET.POSE_BOX", "keypoints", "MODEL.KEYPOINT_ON", True]


def cfg_of(side: str) -> CfgNode:
    """The config of a side."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file("quick/lsnet_multitask_shapes.yaml"))
    cfg.merge_from_list(["MODEL.LSNET.TASKS", side.split("+"), "MODEL.DEVICE", "cpu", *(OF_POSES if side == "pose" else [])])
    prepare_datasets(cfg)
    return cfg


def training_step(cfg: CfgNode) -> Any:
    """An iteration on the next of the first four batches."""
    model = prepare_for_training(cfg, Trainer.build_model(cfg).train())
    batches = itertools.cycle(list(itertools.islice(Trainer.build_train_loader(cfg), 4)))
    step = TrainingStep(model=model, optimizer=build_optimizer(cfg, model), clip=build_gradient_clipper(cfg))
    numbers = itertools.count()
    return lambda: step(batches, iteration=next(numbers))


def detection(cfg: CfgNode, weights: Path | None) -> Any:
    """Detecting on the next of the first eight images."""
    model = Trainer.build_model(cfg).eval()
    if weights is not None:
        load_weights(model, weights)
    detector = prepare_for_inference(cfg, model).eval()
    images = itertools.cycle([batch[:1] for batch in itertools.islice(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), 8)])
    return torch.no_grad()(lambda: detector(next(images)))


def main() -> None:
    """Compares the sides."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, help="folder of the four runs")
    parser.add_argument("--rounds", type=int, default=16)
    args = parser.parse_args()
    same_conditions(args.threads)
    torch.manual_seed(0)
    configs = {side: cfg_of(side) for side in SIDES}
    with Report("Several tasks", (__doc__ or "").split("\n")[0], args.json, quick=args.quick) as report:
        for side, cfg in configs.items():
            report.add(what="weights", side=side, million=sum(p.numel() for p in Trainer.build_model(cfg).parameters()) / 1e6)
        weights = {side: args.runs / side / "model_final.pth" if args.runs else None for side in SIDES}
        parts = {
            "iteration": {side: partial(clocked, training_step(cfg)) for side, cfg in configs.items()},
            "image": {side: partial(clocked, detection(cfg, weights[side])) for side, cfg in configs.items()},
        }
        for what, sides in parts.items():
            report.compare({"what": what}, sides, rounds=2 if args.quick else args.rounds)


if __name__ == "__main__":
    main()
