#!/usr/bin/env python
"""What a model costs: parameters, multiply-adds, activations, and its time on the device at hand, with the speed that is reported for it.

python tools/benchmark.py quick_fcos_shapes
python tools/benchmark.py sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml --size 800x1280 --batch 4
python tools/benchmark.py output/raccoon/config.yaml --device cuda --json speed.json

Weights are random, since numbers do not depend on them but for how many detections pass NMS. A name of the model zoo means its config.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from detkit.analysis import Latency, count_cost, measure_latency, reported_speed
from detkit.engine import Trainer, prepare_for_inference
from detkit.engine.run_record import describe_environment
from detkit.model_zoo import available, find
from detkit.predictor.named import config_and_weights


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, counts, measures and prints.

    Raises:
        SystemExit: bad input, with one line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name of the model zoo, a config file, or its name below configs/")
    parser.add_argument("--size", type=_size, metavar="HxW", help="of images as they enter the network (default: 4:3 as in testing)")
    parser.add_argument("--batch", type=_positive, default=4, help="images at once, besides 1 (default: 4; 1: no second measurement)")
    parser.add_argument("--runs", type=_positive, default=20, help="that are measured (default: 20)")
    parser.add_argument("--device", help="of torch (default: MODEL.DEVICE)")
    parser.add_argument("--no-latency", action="store_true", help="count only")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of config keys")
    args = parser.parse_intermixed_args(argv)
    try:
        cfg = _config(args)
        size = args.size or _usual_size(cfg)
        record = _measured(cfg, size, args)
        if args.json:
            args.json.write_text(json.dumps(record, indent=2) + "\n")
    except (ValueError, OSError) as error:
        sys.exit("error: " + "; ".join(line.strip() for line in str(error).splitlines() if line.strip()))


def _config(args: argparse.Namespace) -> CfgNode:
    cfg, _ = config_and_weights(args.model, None)
    cfg = cfg.clone()
    # named elsewhere, so that nothing warns of random ones
    cfg.merge_from_list([*args.opts, "MODEL.WEIGHTS", "random", "MODEL.BACKBONE.WEIGHTS", ""])
    if args.device:
        cfg.merge_from_list(["MODEL.DEVICE", args.device])
    return cfg


def _usual_size(cfg: CfgNode) -> tuple[int, int]:
    """Of an image of 640 x 480 as testing resizes it, up to multiples of 32."""
    shorter = cfg.INPUT.MIN_SIZE_TEST or 480
    scale = min(shorter / 480, cfg.INPUT.MAX_SIZE_TEST / 640)
    height, width = (-(-int(side * scale + 0.5) // 32) * 32 for side in (480, 640))
    return height, width


def _measured(cfg: CfgNode, size: tuple[int, int], args: argparse.Namespace) -> dict[str, Any]:
    model = Trainer.build_model(cfg).eval()
    cost, prepared = count_cost(model, size), prepare_for_inference(cfg, model)
    print(f"{args.model} on images of {size[0]} x {size[1]} pixels")
    print(f"  parameters     {cost.parameters / 1e6:10.2f} million, {cost.trained / 1e6:.2f} of them trained")
    print(f"  multiply-adds  {cost.flops / 1e9:10.2f} billion")
    for part, flops in cost.by_part.items():
        print(f"    {part:28} {flops / 1e9:10.2f}")
    print(f"  activations    {cost.activations / 1e6:10.2f} million")
    if cost.not_counted:
        print(f"  not counted: {', '.join(f'{name} ({count})' for name, count in cost.not_counted.items())}")
    latencies = [] if args.no_latency else [_latency(prepared, size, batch, args.runs) for batch in dict.fromkeys((1, args.batch))]
    config = find(args.model).config if args.model in available() else args.model
    speed = reported_speed(str(config))
    if speed:
        print(f"  reported       {speed.fps:g} images a second ({speed.source})")
    elif latencies:
        print("  reported       no speed is reported for this config")
    return {
        "model": args.model,
        "size": size,
        "cost": dataclasses.asdict(cost),
        "latency": [dataclasses.asdict(each) for each in latencies],
        "reported": speed and speed._asdict(),
        "device": cfg.MODEL.DEVICE,
        "threads": torch.get_num_threads(),
        **describe_environment(),
    }


def _latency(model: torch.nn.Module, size: tuple[int, int], batch: int, runs: int) -> Latency:
    warm_up = 3
    with tqdm(total=runs + warm_up, desc=f"batch {batch}", leave=False, disable=None, file=sys.stderr) as bar:
        found = measure_latency(model, size, batch=batch, runs=runs, warm_up=warm_up, progress=bar.update)
    device = next(model.parameters()).device
    hardware = describe_environment()["hardware"]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{hardware['cpu']}, {torch.get_num_threads()} threads"
    print(
        f"  batch {batch:<8} {1000 * found.median:10.1f} ms (quartiles {1000 * found.low:.1f} to {1000 * found.high:.1f}), "
        f"{found.fps:.2f} images a second; {where}"
    )
    return found


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is no height and width such as 800x1280")
    return int(match[1]), int(match[2])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1")
    return int(text)


if __name__ == "__main__":
    main()
