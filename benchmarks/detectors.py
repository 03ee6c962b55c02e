"""The detectors of this project beside torchvision's FCOS: the same data, backbone, width, depth, image size, iterations and batch.

    python benchmarks/detectors.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json --seeds 0 1 2 \\
        --learning-rate-factors 1 0.5

Ours are ``configs/quick/<method>_mobilenetv2.yaml`` through ``train_net.py``, the peer is ``benchmarks/torchvision_fcos.py``.
Prints a table of box AP; of two learning rates each side takes its better one. How runs are kept: ``benchmarks/trainings.py``.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torchvision_fcos as peer
from trainings import Run, method_cells, method_changes, parse_arguments, print_table, trainings_of

from detkit.data import find_image_folder
from detkit.engine.allocator import keep_freed_memory

METHODS = ("torchvision", "fcos", "atss", "dw", "sparsercnn", "lsnet")


def run_peer(args: argparse.Namespace, seed: int, factor: float) -> dict[str, float]:
    """Trains and evaluates torchvision's FCOS."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    folders: dict[str, Any] = {}
    for split, json_file in (("train", args.train_json), ("val", args.val_json)):
        first = json.loads(json_file.read_text())["images"][0]["file_name"]
        folders |= {f"{split}_json": json_file, f"{split}_images": find_image_folder(json_file, first)}
    budget = peer.Budget(learning_rate=factor * peer.Budget.learning_rate)
    return peer.train_and_evaluate(**folders, seed=seed, budget=budget)


def main() -> None:
    args = parse_arguments(__doc__, METHODS, "output/benchmarks/detectors")
    trainings = trainings_of(args)

    def measure(name: str, what: Run) -> Run:
        if what["method"] == "torchvision":
            return run_peer(args, what["seed"], what["factor"])
        config = f"{what['method']}_mobilenetv2"
        box = trainings.train(config, name, method_changes(config, what, args))["bbox"]
        return {metric: box[metric] for metric in peer.METRICS}

    print_table(trainings.collect(method_cells(args), measure), METHODS, ["AP"])


if __name__ == "__main__":
    main()
