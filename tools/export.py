#!/usr/bin/env python
"""Writes a detector to a file that runs without this project, and checks that the file gives the model's detections.

python tools/export.py fcos/fcos_R_50_FPN_1x.yaml --output fcos.onnx MODEL.WEIGHTS model_final.pth
python tools/export.py output/run/config.yaml --format torch_export --size 800x1344 --batch 1
python tools/export.py lsnet/lsnet_segm_R_50_FPN_1x.yaml --images a.jpg b.jpg --raw
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import Tensor

from detkit import get_config_file
from detkit.checkpoint import CheckpointError, load_weights
from detkit.config import ConfigError, check_config, get_cfg
from detkit.export import FORMATS, ExportError, ExportSettings, export_detector, metadata_of


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the file and prints what the comparison gave.

    Raises:
        SystemExit: bad input, or a detector that cannot be exported as asked; one message with the reason.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, or its name below configs/")
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx")
    parser.add_argument("--size", type=_size, default=None, metavar="dynamic|HxW", help="of the images in pixels (default: dynamic)")
    parser.add_argument("--batch", type=_batch, default=None, metavar="dynamic|N", help="images at a time (default: dynamic)")
    parser.add_argument("--raw", action="store_true", help="the network's maps, without post-processing")
    parser.add_argument("--fp16", action="store_true", help="store the weights of an ONNX file in half precision")
    parser.add_argument("--opset", type=int, default=20, help="of ONNX, 20 or more (default: 20)")
    parser.add_argument("--images", nargs="+", type=Path, default=(), help="images to compare on (default: generated ones)")
    parser.add_argument("--output", type=Path, help="default: the config's name in the current folder")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of config keys; MODEL.WEIGHTS FILE")
    args = parser.parse_intermixed_args(argv)
    try:
        cfg = _config(args.config, args.opts)
        path = args.output or Path(Path(args.config).stem + FORMATS[args.format])
        check_config(cfg)
        model = build_model(cfg)
        if cfg.MODEL.WEIGHTS:
            load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
        else:
            print("MODEL.WEIGHTS is not set: the file will hold random weights.", file=sys.stderr)
        settings = ExportSettings(size=args.size, batch=args.batch, raw=args.raw, opset=args.opset)
        agreement = export_detector(
            model,
            path,
            file_format=args.format,
            settings=settings,
            metadata=metadata_of(cfg, model, settings, _class_names(cfg, model), Path(args.config).stem),
            half=args.fp16,
            photos=[_photo(image, cfg, args.size) for image in args.images],
        )
    except (ExportError, ConfigError, CheckpointError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB; compared with the model: {agreement}.")


def _config(name: str, opts: Sequence[str]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(name if Path(name).is_file() else get_config_file(name))
    cfg.merge_from_list(["MODEL.BACKBONE.WEIGHTS", "", "MODEL.WEIGHTS", "", *opts, "MODEL.DEVICE", "cpu"])
    return cfg


def _class_names(cfg: CfgNode, model: torch.nn.Module) -> list[str]:
    """Of the first dataset that has as many classes as the model; else numbers."""
    count = getattr(model, "num_classes", None) or model.criterion.num_classes  # type: ignore[union-attr]
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if dataset in DatasetCatalog:
            names = MetadataCatalog.get(dataset).get("thing_classes") or []
            if len(names) == count:
                return list(names)
    return [f"class {number}" for number in range(count)]


def _photo(path: Path, cfg: CfgNode, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W), resized as in testing, or to fit the exported size."""
    image = read_image(str(path), format=cfg.INPUT.FORMAT)
    if size is None:
        resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    else:
        scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
        shorter, longer = sorted(int(side * scale) for side in image.shape[:2])
        resize = ResizeShortestEdge([shorter] * 2, longer)
    resized = resize.get_transform(image).apply_image(image)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'dynamic' nor a height and width such as 800x1344")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | None:
    if text != "dynamic" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'dynamic' nor a number")
    return None if text == "dynamic" else int(text)


if __name__ == "__main__":
    main()
