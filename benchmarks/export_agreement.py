"""Do exported and compiled detectors give the model's detections on real images? Every kind of detector, on ResNet-50 and MobileNetV2.

    python benchmarks/export_agreement.py IMAGE_FOLDER [--only "FCOS" "LSNet, masks"] [--backbones R50] [--formats onnx]

Weights are random, of a kind that gives a hundred detections with scores far apart. Images of different sizes are taken from the folder, as
large as they are; the first two also come as a batch. ``onnx`` and ``torch_export`` are written for any size and batch and run on all
images, ``compile`` is ``torch.compile(fullgraph=True, dynamic=True)`` and runs on three. Prints a table: detections that are the same,
those that lose a tie (in flat parts of an image neighbors have scores that differ by rounding alone, and NMS keeps another one of them),
and the worst difference of boxes and landmarks in pixels and of scores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor, nn

from detkit import get_config_file
from detkit.config import get_cfg
from detkit.export import Agreement, DetectorProgram, ExportError, ExportSettings, compare_outputs, example_inputs, export_detector

_NINE: list[object] = ["MODEL.ATSS.ANCHORS.RATIOS", [0.5, 1.0, 2.0], "MODEL.ATSS.ANCHORS.SCALES", [4.0, 5.039684, 6.349604]]
_TOOD: list[object] = ["MODEL.DW.HEAD.NAME", "TOODHead", "MODEL.DW.HEAD.QUALITY", "none", "MODEL.DW.BOX_CODER.NAME", "linear"]
_CORNERS: list[object] = ["MODEL.LSNET.CPV.ENABLED", True]
_DEFORMABLE: list[object] = ["MODEL.LSNET.HEAD.DEFORMABLE_TOWERS", True]
#: per detector the config on ResNet-50, the one on MobileNetV2, and changes of the latter
DETECTORS: dict[str, tuple[str, str, list[object]]] = {
    "FCOS": ("fcos/fcos_R_50_FPN_1x", "fcos", []),
    "FCOS, deformable": ("fcos/fcos_R_50_DCN_FPN_1x_improved", "fcos", ["MODEL.FCOS.HEAD.DCN_ON_LAST_CONV", True]),
    "ATSS": ("atss/atss_R_50_FPN_1x", "atss", []),
    "RetinaNet, nine anchors": ("atss/retinanet_a9_R_50_FPN_1x", "atss", _NINE),
    "DW": ("dw/dw_R_50_FPN_1x", "dw", []),
    "DW, refined": ("dw/dw_refine_R_50_FPN_1x", "dw", ["MODEL.DW.HEAD.NAME", "RefiningHead"]),
    "DW, TOOD's head": ("dw/dw_tood_head_R_50_FPN_1x", "dw", _TOOD),
    "Sparse R-CNN": ("sparsercnn/sparsercnn_R_50_FPN_100pro_3x", "sparsercnn", []),
    "LSNet, boxes": ("lsnet/lsnet_R_50_FPN_1x", "lsnet", _DEFORMABLE),
    "LSNet, masks": ("lsnet/lsnet_segm_R_50_FPN_30e_ms", "lsnet_segm", []),
    "LSNet, poses": ("lsnet/lsnet_pose_R_50_FPN_60e_ms", "lsnet_pose", []),
    "LSNet, corners": ("lsnet/lsnet_R_50_FPN_1x", "lsnet", _CORNERS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10, help="images (default: 10)")
    parser.add_argument("--only", nargs="+", choices=list(DETECTORS), default=list(DETECTORS))
    parser.add_argument("--backbones", nargs="+", choices=["R50", "MobileNetV2"], default=["R50", "MobileNetV2"])
    parser.add_argument("--formats", nargs="+", choices=["onnx", "torch_export", "compile"], default=["onnx"])
    parser.add_argument("--compiler", default="eager", help="backend of torch.compile: eager, aot_eager, inductor (default: eager)")
    args = parser.parse_args()
    photos = different_sizes(args.folder, args.count)
    print(f"images: {', '.join('x'.join(map(str, photo.shape[1:])) for photo in photos)}")
    print("| detector | backbone | form | the same | boxes | scores | landmarks | seconds |\n|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.only:
        for backbone in args.backbones:
            for form in args.formats:
                model, start = detector(name, backbone, photos), time.process_time()
                try:
                    found = compiled(model, photos, args.compiler) if form == "compile" else exported(model, photos, form)
                except ExportError as error:
                    print(f"| {name} | {backbone} | {form} | {error} |", flush=True)
                    continue
                same = f"{found.detections - found.unmatched} of {found.detections}" + f" (ties: {found.ties})" * bool(found.ties)
                worst = f"{found.box:.1e} | {found.score:.1e} | {found.landmark:.1e}"
                print(f"| {name} | {backbone} | {form} | {same} | {worst} | {time.process_time() - start:.0f} |", flush=True)


def different_sizes(folder: Path, count: int) -> list[Tensor]:
    """The first images (3, H, W) of a folder that differ in size."""
    photos: dict[tuple[int, int], Tensor] = {}
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            if image.size not in photos:
                photos[image.size] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
        if len(photos) == count:
            return list(photos.values())
    raise SystemExit(f"{folder} has {len(photos)} images of different sizes, not {count}.")


def detector(name: str, backbone: str, photos: Sequence[Tensor]) -> nn.Module:
    """A detector with random weights."""
    large, small, changes = DETECTORS[name]
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(f"{large}.yaml" if backbone == "R50" else f"quick/{small}_mobilenetv2.yaml"))
    if backbone == "MobileNetV2":
        cfg.merge_from_list(changes)
    elif name.startswith("LSNet"):  # landmarks around nothing are hardly ever in an order that makes a box
        cfg.merge_from_list(["MODEL.LSNET.HEAD.START_SIZE", 3.0, *(_CORNERS if name == "LSNet, corners" else [])])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", ""])
    model = build_model(cfg).eval()
    draw_weights(model)
    spread_scores(model, photos[0])
    return model


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int = 0) -> None:
    """Weights that depend on seed, name and shape alone, with which activations keep their size from layer to layer."""
    for name, values in model.state_dict().items():
        random = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        if not values.is_floating_point():
            continue
        normal = torch.randn(values.shape, generator=random)
        if name.endswith("running_var"):
            values.copy_(0.5 + torch.rand(values.shape, generator=random))
        elif "proposal" in name:
            values.copy_(values + 0.05 * normal)
        elif values.ndim == 0 or values.numel() == 1:
            values.copy_(1 + 0.1 * normal)
        elif values.ndim == 1:
            kept = 0.5 if name.endswith("weight") else values.clamp(min=0)  # not the classes' bias, which makes all scores small
            values.copy_(kept + 0.1 * normal)
        else:
            values.copy_(normal * (2 / values[0].numel()) ** 0.5 * (0.1 if "offset" in name else 0.01 if "lateral" in name else 1))


@torch.no_grad()
def spread_scores(model: Any, photo: Tensor) -> None:
    """Changes the layers that give logits so that few locations of a photo have high scores, far apart, as those of a trained model."""
    count = getattr(model, "num_classes", None) or model.criterion.num_classes
    layers: list[Any] = [each for each in model.modules() if isinstance(each, (nn.Conv2d, nn.Linear)) and each.bias is not None]
    layers = [each for each in layers if len(each.weight) in {count, 9 * count}]

    def logits() -> Tensor:
        raw = DetectorProgram(model, raw=True)
        values = zip(raw(photo[None], torch.tensor([photo.shape[1:]])), raw.output_names, strict=True)
        return torch.cat([value.flatten() for value, name in values if name.startswith("logits")])

    scale = 2 / logits().std()
    for layer in layers:
        layer.weight *= scale
    highest = logits().topk(300).values[-1]
    for layer in layers:
        layer.bias -= highest


def exported(model: nn.Module, photos: Sequence[Tensor], file_format: str) -> Agreement:
    """How far a file of any size and batch gives what the model gives."""
    with tempfile.TemporaryDirectory() as folder:
        return export_detector(model, Path(folder) / "model", file_format=file_format, photos=photos)


@torch.no_grad()
def compiled(model: nn.Module, photos: Sequence[Tensor], backend: str) -> Agreement:
    """How far the compiled program gives what the model gives."""
    torch.compiler.reset()
    program = DetectorProgram(model)
    program(*ExportSettings().example())  # tells the names of its outputs
    run: Callable[..., tuple[Tensor, ...]] = torch.compile(program, fullgraph=True, dynamic=True, backend=backend)
    agreement = Agreement()
    for images, sizes in example_inputs(ExportSettings(), photos[:2]):
        outputs = [dict(zip(program.output_names, each(images, sizes), strict=True)) for each in (run, program)]
        compare_outputs(outputs[0], outputs[1], agreement)
    return agreement


if __name__ == "__main__":
    main()
