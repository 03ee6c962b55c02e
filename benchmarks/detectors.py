"""The detectors of this project beside torchvision's FCOS: the same data, backbone, width, depth, image size, iterations and batch.

    python benchmarks/detectors.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json --seeds 0 1 2

Ours are ``configs/quick/<method>_mobilenetv2.yaml`` through ``train_net.py``'s code, the peer is ``benchmarks/torchvision_fcos.py``.
Prints a table and writes every run to a json file as it ends; runs that stand there already are not repeated. Several of these processes
may share the folder, not the file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torchvision_fcos as peer
from detectron2.engine import default_argument_parser

from detkit.data import find_image_folder
from detkit.engine import main as train_net
from detkit.engine.allocator import keep_freed_memory

CONFIGS = Path(__file__).parents[1] / "configs" / "quick"
METHODS = ("torchvision", "fcos", "atss", "dw", "sparsercnn", "lsnet")


def run_ours(method: str, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains and evaluates one of our configs; AP in percent under pycocotools' names."""
    overrides = {
        "DATASETS.TRAIN_JSON": args.train_json,
        "DATASETS.VAL_JSON": args.val_json,
        "DATASETS.NAME": args.train_json.parents[1].name,
        "SEED": seed,
        "OUTPUT_DIR": args.output.parent / f"{args.output.stem}_{method}_{seed}",
        "MODEL.DEVICE": "cpu",
        "TEST.EXPECTED_RESULTS": "[]",
    }
    options = [str(part) for item in overrides.items() for part in item]
    command = default_argument_parser().parse_args(["--config-file", str(CONFIGS / f"{method}_mobilenetv2.yaml"), *options])
    results = train_net(command)
    (box,) = (tasks["bbox"] for tasks in results.values())
    return {name: box[name] for name in peer.METRICS}


def run_peer(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains and evaluates torchvision's FCOS."""
    folders = {}
    for split, json_file in (("train", args.train_json), ("val", args.val_json)):
        first = json.loads(json_file.read_text())["images"][0]["file_name"]
        folders |= {f"{split}_json": json_file, f"{split}_images": find_image_folder(json_file, first)}
    return peer.train_and_evaluate(**folders, seed=seed)


def print_table(runs: list[dict]) -> None:
    """AP of every method: mean over seeds and each seed."""
    for method in METHODS:
        values = {run["seed"]: run["AP"] for run in runs if run["method"] == method}
        if values:
            seeds = ", ".join(f"{value:.1f}" for _, value in sorted(values.items()))
            minutes = statistics.median(run["seconds"] for run in runs if run["method"] == method) / 60
            print(f"{method:12s} AP {statistics.mean(values.values()):5.1f}   seeds {seeds}   median {minutes:.1f} min a run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-json", type=Path, required=True)
    parser.add_argument("--val-json", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/detectors.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    runs = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    for seed in args.seeds:
        for method in args.methods:
            if any(run["method"] == method and run["seed"] == seed for run in runs):
                continue
            start = time.perf_counter()
            metrics = run_peer(args, seed) if method == "torchvision" else run_ours(method, args, seed)
            runs.append({"method": method, "seed": seed, **metrics, "seconds": time.perf_counter() - start})
            environment = {
                "torch": torch.__version__,
                "threads": args.threads,
                "machine": platform.platform(),
                "date": time.strftime("%Y-%m-%d"),
            }
            args.output.write_text(json.dumps({"data": str(args.train_json), "environment": environment, "runs": runs}, indent=1) + "\n")
    print_table(runs)


if __name__ == "__main__":
    main()
