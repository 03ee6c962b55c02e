"""What do the forms give in which a network can run: channels last, norms folded, bfloat16, fused optimizers?

    python benchmarks/network.py                                  # FCOS R50 at 800 x 1333, training steps, optimizers
    python benchmarks/network.py --parts detecting --methods FCOS ATSS DW "Sparse R-CNN" LSNet --size 480 640
    python benchmarks/network.py --parts accuracy                 # AP of the two small models in every form

Detecting is one image from the network's input to detections, with random weights. Beside the times, ``ratio`` says how many times faster a
form is than the plain one in float32, ``apart`` how far the maps of the network are from those of the plain one, beside their spread. A
training step is one of ``quick/fcos_shapes`` on 8 images of 256 x 352, without the loading of data. A step of an optimizer is one on all
weights of the model, whose gradients are there already.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from timing import Report, alternate, arguments, clocked, figures, same_conditions
from torch import Tensor, nn

import detkit
from detkit import get_config_file
from detkit.config import get_cfg
from detkit.data import prepare_datasets
from detkit.engine import (
    Trainer,
    TrainingStep,
    build_gradient_clipper,
    build_optimizer,
    evaluate,
    prepare_for_inference,
    prepare_for_training,
)
from detkit.engine.prepare import training_dtype

CONFIGS = {
    "FCOS": "fcos/fcos_R_50_FPN_1x.yaml",
    "ATSS": "atss/atss_R_50_FPN_1x.yaml",
    "DW": "dw/dw_R_50_FPN_1x.yaml",
    "Sparse R-CNN": "sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml",
    "LSNet": "lsnet/lsnet_R_50_FPN_1x.yaml",
}
PLAIN: dict[str, Any] = {"MODEL.MEMORY_FORMAT": "contiguous", "TEST.FOLD_NORMS": False, "TEST.PRECISION": "float32"}
LAST, FOLDED, BF16 = {"MODEL.MEMORY_FORMAT": "channels_last"}, {"TEST.FOLD_NORMS": True}, {"TEST.PRECISION": "bfloat16"}
#: what a network detects in, beside the plain form
DETECTING: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels last": LAST,
    "folded": FOLDED,
    "channels last, folded (default)": LAST | FOLDED,
    "bfloat16": BF16,
    "bfloat16, channels last, folded": BF16 | LAST | FOLDED,
}
AMP = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
TRAINING: dict[str, dict[str, Any]] = {
    "plain": {"SOLVER.FUSED": False},
    "channels last": LAST | {"SOLVER.FUSED": False},
    "channels last, fused (default)": LAST,
    "bfloat16, channels last, fused": LAST | AMP,
}
#: models, the smaller ones of the model zoo, that have an AP to compare, and the forms in which it is measured
ACCURACY = ("quick_fcos_shapes", "quick_lsnet_segm_shapes")
FORMS = ("plain", "channels last, folded (default)", "bfloat16, channels last, folded")


def main() -> None:
    parser = arguments(__doc__, json_name="network")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["detecting", "training", "optimizers"])
    parser.add_argument("--methods", nargs="+", choices=CONFIGS, default=["FCOS"])
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    same_conditions(args.threads)
    if args.quick:
        args.size, args.rounds = (128, 160), 1
    title, question = "The network itself", (__doc__ or "").split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick) as report:
        for part in args.parts:
            PARTS[part](report, args)


def with_keys(cfg: CfgNode, keys: dict[str, Any]) -> CfgNode:
    cfg = cfg.clone()
    cfg.merge_from_list([word for pair in (PLAIN | keys).items() for word in pair])
    return cfg


def method_cfg(method: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(CONFIGS[method]))
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    return cfg


def compare(report: Report, what: dict[str, Any], sides: dict[str, Callable[[], object]], rounds: int, **more: dict[str, Any]) -> None:
    """Rows of all forms, each with its ratio to the first."""
    if report.has(**what):
        return
    samples = alternate({name: partial(clocked, call) for name, call in sides.items()}, rounds=rounds)
    plain = statistics.median(sample.processor for sample in next(iter(samples.values())))
    for name, taken in samples.items():
        ratio = plain / statistics.median(sample.processor for sample in taken)
        extra = {key: values[name] for key, values in more.items()}
        report.add(**what, side=name, **figures(taken), ratio=float(f"{ratio:.3g}"), **extra)


@torch.no_grad()
def detecting(report: Report, args: Any) -> None:
    for method in args.methods:
        torch.manual_seed(0)
        cfg = method_cfg(method)
        model: Any = with_statistics(build_model(cfg).eval())
        size = tuple(args.size)
        image = {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "height": size[0], "width": size[1]}
        padded = model.preprocess_image([image]).tensor
        forms: dict[str, Any] = {name: prepare_for_inference(with_keys(cfg, keys), model) for name, keys in DETECTING.items()}
        maps = {name: raw_maps(form, padded, size) for name, form in forms.items()}
        apart = {name: distance(found, maps["plain"]) for name, found in maps.items()}
        sides: dict[str, Callable[[], object]] = {name: partial(form, [image]) for name, form in forms.items()}
        what = {"table": "One image, from input to detections", "method": method, "size": f"{size[0]} x {size[1]}"}
        compare(report, what, sides, args.rounds, apart=apart)


def with_statistics(model: nn.Module) -> nn.Module:
    """Frozen norms of some mean and variance, which random weights come without."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.25)
    return model


def raw_maps(model: Any, images: Tensor, size: tuple[int, int]) -> list[Tensor]:
    return [value.float() for value in model.raw_tensors(images, torch.tensor([size], dtype=torch.float32)).values()]


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The mean difference beside the standard deviation, of all maps, as one number."""
    parts = [float((a - b).abs().mean() / b.std().clamp(min=1e-6)) for a, b in zip(found, expected, strict=True)]
    return float(f"{statistics.mean(parts):.2g}")


def training(report: Report, args: Any) -> None:
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file("quick/fcos_shapes.yaml"))
    cfg.merge_from_list(["MODEL.BACKBONE.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    sides: dict[str, Callable[[], object]] = {}
    loss: dict[str, float] = {}
    for name, keys in TRAINING.items():
        torch.manual_seed(0)
        form = with_keys(cfg, keys)
        model = prepare_for_training(form, build_model(form).train())
        step = TrainingStep(
            model=model,
            optimizer=build_optimizer(form, model),
            amp_dtype=training_dtype(form),
            clip=build_gradient_clipper(form),
        )
        batch = objects(8, (256, 352), cfg.MODEL.FCOS.NUM_CLASSES)
        sides[name] = partial(step, itertools.repeat(batch), iteration=0)
        loss[name] = float(f"{sum(model(batch).values()).item():.5g}")
    compare(report, {"table": "One training step", "method": "FCOS", "size": "quick, 8 images"}, sides, args.rounds, loss=loss)


def objects(number: int, size: tuple[int, int], classes: int) -> list[dict[str, Any]]:
    """Images of noise with 4 objects each."""
    rng, images = torch.Generator().manual_seed(0), []
    for _ in range(number):
        corner = torch.rand(4, 2, generator=rng) * torch.tensor([size[1] / 2, size[0] / 2])
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.cat([corner, corner + 20 + 60 * torch.rand(4, 2, generator=rng)], dim=1))
        instances.gt_classes = torch.randint(0, classes, (4,), generator=rng)
        image = torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8)
        images.append({"image": image, "instances": instances, "image_id": 0, "file_name": ""})
    return images


def optimizers(report: Report, args: Any) -> None:
    for name, method in (("SGD", "FCOS"), ("AdamW", "Sparse R-CNN")):
        cfg = method_cfg(method)
        cfg.SOLVER.OPTIMIZER = name
        sides: dict[str, Callable[[], object]] = {}
        for side, fused in (("plain", False), ("fused (default)", True)):
            form = with_keys(cfg, LAST | {"SOLVER.FUSED": fused})
            model = prepare_for_training(form, build_model(form))
            for p in model.parameters():
                p.grad = torch.full_like(p, 1e-6) if p.requires_grad else None
            sides[side] = build_optimizer(form, model).step
        compare(report, {"table": f"One step of {name}", "method": method}, sides, 3 * args.rounds)


def accuracy(report: Report, args: Any) -> None:
    """AP of the small models in every form, which differ in rounding."""
    for name in ACCURACY:
        predictor = detkit.Predictor(name)
        predictor.cfg.defrost()
        prepare_datasets(predictor.cfg, eval_only=True)
        for side in FORMS:
            row = {"table": "AP in percent", "method": name, "side": side}
            if not report.has(**row):
                report.add(**row, **average_precision(with_keys(predictor.cfg, DETECTING[side]), predictor.model))


def average_precision(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        (tasks,) = evaluate(cfg, model, build_loader=Trainer.build_test_loader).values()
    return {f"{task}_AP": float(f"{metrics['AP']:.5g}") for task, metrics in tasks.items()}


PARTS: dict[str, Callable[[Report, Any], None]] = {
    "detecting": detecting,
    "training": training,
    "optimizers": optimizers,
    "accuracy": accuracy,
}

if __name__ == "__main__":
    main()
