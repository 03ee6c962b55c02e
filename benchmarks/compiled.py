"""Does torch.compile pay? Training steps and inference, eager and compiled (SOLVER.COMPILE, MODEL.COMPILE) in turns in one process.

    python benchmarks/compiled.py                              # quick FCOS, ATSS, DW, Sparse R-CNN, LSNet on 256 x 352
    python benchmarks/compiled.py --methods FCOS --what training --size 800 1333
    python benchmarks/compiled.py --what losses --methods FCOS ATSS DW    # at 800 x 1344, without the network
    python benchmarks/compiled.py --what graphs                # graphs, breaks, recompilations alone: no compiler is needed

A training step is forward and backward of 2 images with 8 objects each, without optimizer and data; inference is one image up to the
detections; losses are assignment and losses of random maps of 80 classes with backward, of two images. For ``graphs`` ten sizes of images
with ten numbers of objects follow: ``graphs`` were made in all, ``recompiled`` of them after the first size, ``breaks`` are graph breaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from inputs import SIZE, dense_maps, objects
from timing import Report, arguments, clocked, same_conditions
from torch import nn
from torch._dynamo.utils import counters

from detkit import get_config_file
from detkit.config import get_cfg
from detkit.engine import prepare_for_inference, prepare_for_training
from detkit.layers import CompiledParts
from detkit.structures import DenseOutputs

CONFIGS = {
    "FCOS": "quick/fcos_mobilenetv2.yaml",
    "ATSS": "quick/atss_mobilenetv2.yaml",
    "DW": "quick/dw_mobilenetv2.yaml",
    "Sparse R-CNN": "quick/sparsercnn_mobilenetv2.yaml",
    "LSNet": "quick/lsnet_mobilenetv2.yaml",
}
#: whose losses are measured without the network
LARGE = {"FCOS": "fcos/fcos_R_50_FPN_1x.yaml", "ATSS": "atss/atss_R_50_FPN_1x.yaml", "DW": "dw/dw_R_50_FPN_1x.yaml"}
#: numbers of objects and factors on the size of the image
OTHERS = [(3, 1.0), (0, 0.5), (1, 0.7), (5, 0.9), (2, 1.2), (8, 0.6), (4, 0.8), (13, 1.1), (9, 0.75), (6, 0.65)]


def main() -> None:
    parser = arguments(__doc__, json_name="compiled")
    parser.add_argument("--methods", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument(
        "--what", nargs="+", choices=["graphs", "losses", "training", "inference"], default=["graphs", "training", "inference"]
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 352), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    same_conditions(args.threads)
    if args.quick:
        args.methods, args.size, args.rounds, args.what = ["FCOS"], (96, 128), 1, ["graphs"]
    title, question = "Compiled by torch.compile", (__doc__ or "").split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["method", "what"]) as report:
        for method in args.methods:
            for what in args.what:
                if what != "graphs":
                    measure(report, method, what, tuple(args.size), args.rounds)
                elif not report.has(method=method, what=what):
                    report.add(table="Graphs", method=method, **graphs(method, tuple(args.size)))


def built(method: str, *, training: bool) -> tuple[nn.Module, Any]:
    """A detector with random weights, as it is trained or as it detects, and its config."""
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(CONFIGS[method]))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "cpu", "", ""
    model = build_model(cfg)
    return (prepare_for_training(cfg, model).train() if training else prepare_for_inference(cfg, model).eval()), cfg


def batch(size: tuple[int, int], count: int, images: int = 2, landmarks: int = 4) -> list[dict[str, Any]]:
    """Noise with objects."""
    found = []
    for number in range(images):
        instances = Instances(size)
        boxes, classes = objects(count, number, size)
        instances.gt_boxes, instances.gt_classes = Boxes(boxes), classes % 3
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)[:, :landmarks]
        instances.gt_landmarks = torch.cat([corners, torch.ones(count, landmarks, 1)], dim=-1)
        image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        found.append({"image": image, "instances": instances, "height": size[0], "width": size[1]})
    return found


def step(model: nn.Module, data: list[dict[str, Any]], parts: CompiledParts | None) -> None:
    model.compiled = parts  # type: ignore[assignment]
    model.zero_grad()
    sum(model(data).values()).backward()


@torch.no_grad()
def detect(model: nn.Module, data: list[dict[str, Any]], parts: CompiledParts | None) -> None:
    model.compiled = parts  # type: ignore[assignment]
    model(data[:1])


def losses_of_maps(method: str) -> Callable[[CompiledParts | None], None]:
    """Losses with backward, of a dense detector on maps that stand for those of a network."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(LARGE[method]))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    model: Any = build_model(cfg).train()
    logits, boxes, quality = dense_maps("deltas" if method == "ATSS" else "distances")
    for x in (*logits, *boxes, *quality):
        x.requires_grad_()
    outputs, data = DenseOutputs(logits, boxes, quality), batch(SIZE, 8)

    def run(parts: CompiledParts | None) -> None:
        model.compiled = parts
        gt = model.ground_truth([item["instances"] for item in data])
        sum(model.losses(outputs, gt, [SIZE, SIZE]).values()).backward()

    return run


def graphs(method: str, size: tuple[int, int]) -> dict[str, int]:
    """What ten sizes make of a training step; by the backend "eager", which traces as the others do."""
    torch.compiler.reset()
    counters.clear()
    model, parts, made = built(method, training=True)[0], CompiledParts(backend="eager"), []
    for count, factor in OTHERS:
        step(model, batch((int(size[0] * factor), int(size[1] * factor)), count), parts)
        made.append(counters["stats"]["unique_graphs"])
    return {
        "graphs": made[-1],
        "recompiled": made[-1] - made[0],
        "breaks": sum(counters["graph_break"].values()),
        "failed": len(parts.failed),
    }


def measure(report: Report, method: str, what: str, size: tuple[int, int], rounds: int) -> None:
    """Eager and compiled in turns."""
    if report.has(method=method, what=what):
        return
    torch.compiler.reset()
    parts = CompiledParts()
    if what == "losses":
        if method not in LARGE:
            return
        run = losses_of_maps(method)
    else:
        run = partial(step if what == "training" else detect, built(method, training=what == "training")[0], batch(size, 8))
    start = time.perf_counter()
    run(parts)
    print(f"{method}, {what}: compiled in {time.perf_counter() - start:.0f} s{', FAILED' if parts.failed else ''}", flush=True)
    sides = {"eager": partial(run, None), "compiled": partial(run, parts)}
    report.compare({"method": method, "what": what}, {name: partial(clocked, call) for name, call in sides.items()}, rounds=rounds)


if __name__ == "__main__":
    main()
