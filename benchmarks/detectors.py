"""The detectors of this project beside torchvision's FCOS: the same data, backbone, width, depth, image size, iterations and batch.

    python benchmarks/detectors.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json --seeds 0 1 2 \\
        --learning-rate-factors 1 0.5

Ours are ``configs/quick/<method>_mobilenetv2.yaml`` through ``train_net.py``'s code, the peer is ``benchmarks/torchvision_fcos.py``.
Prints a table of box AP; of two learning rates each side takes its better one. How runs are kept: ``benchmarks/trainings.py``.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torchvision_fcos as peer
from trainings import collect, parse_arguments, print_table, train

from detkit.data import find_image_folder

METHODS = ("torchvision", "fcos", "atss", "dw", "sparsercnn", "lsnet")


def run_ours(method: str, args: argparse.Namespace, seed: int, factor: float) -> dict[str, float]:
    """Trains and evaluates one of our configs; AP in percent under pycocotools' names."""
    box = train(f"{method}_mobilenetv2", method, args, seed, factor)["bbox"]
    return {name: box[name] for name in peer.METRICS}


def run_peer(args: argparse.Namespace, seed: int, factor: float) -> dict[str, float]:
    """Trains and evaluates torchvision's FCOS."""
    folders: dict[str, Any] = {}
    for split, json_file in (("train", args.train_json), ("val", args.val_json)):
        first = json.loads(json_file.read_text())["images"][0]["file_name"]
        folders |= {f"{split}_json": json_file, f"{split}_images": find_image_folder(json_file, first)}
    budget = peer.Budget(learning_rate=factor * peer.Budget.learning_rate)
    return peer.train_and_evaluate(**folders, seed=seed, budget=budget)


def main() -> None:
    args = parse_arguments(__doc__, METHODS, "output/benchmarks/detectors.json")

    def measure(method: str, seed: int, factor: float) -> dict[str, float]:
        return run_peer(args, seed, factor) if method == "torchvision" else run_ours(method, args, seed, factor)

    runs = collect(args, measure)
    print_table(runs, METHODS, ["AP"])


if __name__ == "__main__":
    main()
