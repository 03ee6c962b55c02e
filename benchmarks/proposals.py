"""FCOS as proposal generator beside Detectron2's region proposal network: the same data, backbone, R-CNN head, iterations and seeds.

    python benchmarks/proposals.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json --seeds 0 1 2

Trains ``configs/quick/fcos_rpn_mobilenetv2.yaml`` and ``configs/quick/rpn_mobilenetv2.yaml`` through ``train_net.py``'s code. Prints the
average recall of the best 100 and 1000 proposals and the AP of the detections. How runs are kept: ``benchmarks/trainings.py``.
"""

from __future__ import annotations

import argparse

from trainings import collect, parse_arguments, print_table, train

GENERATORS = {"FCOS": "fcos_rpn_mobilenetv2", "RPN": "rpn_mobilenetv2"}
METRICS = {"AR100": ("box_proposals", "AR@100"), "AR1k": ("box_proposals", "AR@1000"), "AP": ("bbox", "AP"), "AP50": ("bbox", "AP50")}


def run(generator: str, args: argparse.Namespace, seed: int, factor: float) -> dict[str, float]:
    """Trains and evaluates one R-CNN; the :data:`METRICS` in percent."""
    results = train(GENERATORS[generator], generator, args, seed, factor)
    return {name: results[task][metric] for name, (task, metric) in METRICS.items()}


def main() -> None:
    args = parse_arguments(__doc__, list(GENERATORS), "output/benchmarks/proposals.json")
    print_table(collect(args, lambda generator, seed, factor: run(generator, args, seed, factor)), list(GENERATORS), list(METRICS))


if __name__ == "__main__":
    main()
