"""FCOS as proposal generator beside Detectron2's region proposal network: the same data, backbone, R-CNN head, iterations and seeds.

    python benchmarks/proposals.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json --seeds 0 1 2

Trains ``configs/quick/fcos_rpn_mobilenetv2.yaml`` and ``configs/quick/rpn_mobilenetv2.yaml`` through ``train_net.py``. Prints the
average recall of the best 100 and 1000 proposals and the AP of the detections. How runs are kept: ``benchmarks/trainings.py``.
"""

from __future__ import annotations

from trainings import Run, method_cells, method_changes, parse_arguments, print_table, trainings_of

GENERATORS = {"FCOS": "fcos_rpn_mobilenetv2", "RPN": "rpn_mobilenetv2"}
METRICS = {"AR100": ("box_proposals", "AR@100"), "AR1k": ("box_proposals", "AR@1000"), "AP": ("bbox", "AP"), "AP50": ("bbox", "AP50")}


def main() -> None:
    args = parse_arguments(__doc__, list(GENERATORS), "output/benchmarks/proposals")
    trainings = trainings_of(args)

    def measure(name: str, what: Run) -> Run:
        config = GENERATORS[what["method"]]
        results = trainings.train(config, name, method_changes(config, what, args))
        return {metric: results[task][key] for metric, (task, key) in METRICS.items()}

    print_table(trainings.collect(method_cells(args), measure), list(GENERATORS), list(METRICS))


if __name__ == "__main__":
    main()
