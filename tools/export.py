#!/usr/bin/env python
"""Writes a detector to a file that runs without this project, and checks that the file gives the model's detections.

python tools/export.py fcos/fcos_R_50_FPN_1x.yaml --output fcos.onnx MODEL.WEIGHTS model_final.pth
python tools/export.py output/run --format torch_export --size 800x1344 --batch 1
python tools/export.py quick_lsnet_segm_shapes --images a.jpg b.jpg --raw
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from torch import Tensor, nn

from detkit.checkpoint import CONFIG_FILE, CheckpointError
from detkit.config import ConfigError, check_config
from detkit.config_files import config_names, get_config_file
from detkit.data import DataError, prepare_datasets
from detkit.export import FORMATS, ExportError, ExportSettings, export_detector, metadata_of
from detkit.predictor import Predictor, read_bgr
from detkit.predictor.named import config_and_weights
from detkit.sharing import SHARED_WEIGHTS


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the file and prints what the comparison gave.

    Raises:
        SystemExit: bad input, or a detector that cannot be exported as asked; one message with the reason.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name of the model zoo, a config file or its name below configs/, or the folder of a run")
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx")
    parser.add_argument("--size", type=_size, default=None, metavar="dynamic|HxW", help="of the images in pixels (default: dynamic)")
    parser.add_argument("--batch", type=_batch, default=None, metavar="dynamic|N", help="images at a time (default: dynamic)")
    parser.add_argument("--raw", action="store_true", help="the network's maps, without post-processing")
    parser.add_argument("--fp16", action="store_true", help="store the weights of an ONNX file in half precision")
    parser.add_argument("--opset", type=int, default=20, help="of ONNX, 20 or more (default: 20)")
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=(),
        help="images to compare on (default: those of the test set, where it is there, else generated ones)",
    )
    parser.add_argument("--output", type=Path, help="default: the config's name in the current folder")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of config keys; MODEL.WEIGHTS FILE")
    args = parser.parse_intermixed_args(argv)
    try:
        settings = ExportSettings(size=args.size, batch=args.batch, raw=args.raw, opset=args.opset)
        source = _source(args.model, args.opts)
        path = args.output or Path(Path(args.model).stem + FORMATS[args.format])
        agreement = export_detector(
            source.model,
            path,
            file_format=args.format,
            settings=settings,
            metadata=_metadata(source, settings, Path(args.model).stem),
            half=args.fp16,
            photos=[_photo(image, source.cfg, args.size) for image in args.images or _of_test_set(source, args.batch or 2)],
        )
    except (ExportError, ConfigError, CheckpointError, DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB; compared with the model: {agreement}.")


class _Source(NamedTuple):
    """What is exported: a detector on the CPU, its config, the names of its classes, and Detectron2's metadata of its dataset."""

    model: nn.Module
    cfg: CfgNode
    class_names: list[str]
    metadata: Metadata


def _source(name: str, opts: Sequence[str]) -> _Source:
    if Path(name).is_dir():
        if opts:
            raise ConfigError(f"'{name}' is a folder, whose config is complete. To override {opts[0]}, name its config.yaml.")
        is_run = (Path(name) / CONFIG_FILE).is_file() and not (Path(name) / SHARED_WEIGHTS).is_file()
        predictor = (Predictor.from_run if is_run else Predictor.from_hub)(name, device="cpu")
    else:
        cfg, weights = config_and_weights(name, None)
        cfg = cfg.clone()
        cfg.merge_from_list([*opts, "MODEL.DEVICE", "cpu"])
        if "MODEL.WEIGHTS" in opts:
            weights = cfg.MODEL.WEIGHTS
        elif _is_recipe(name):
            weights = ""  # those in a recipe are where its training starts
        if not weights:
            return _random(cfg)
        predictor = Predictor(cfg, weights, device="cpu")
    return _Source(predictor.model, predictor.cfg, predictor.class_names, predictor.metadata)


def _is_recipe(name: str) -> bool:
    """Whether a name, or the path of a file, is that of a config of this project, which has no trained weights."""
    return name in config_names() or Path(name).resolve() in {Path(get_config_file(each)).resolve() for each in config_names()}


def _random(cfg: CfgNode) -> _Source:
    """A detector without weights, to try out what can be exported."""
    print("No trained weights are named (MODEL.WEIGHTS FILE): the file will hold random ones.", file=sys.stderr)
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", ""])
    check_config(cfg)
    model = build_model(cfg)
    count = getattr(model, "num_classes", None) or model.criterion.num_classes  # type: ignore[union-attr]
    names = [str(name) for name in cfg.DATASETS.CLASS_NAMES][:count]
    return _Source(model, cfg, names + [f"class {number}" for number in range(len(names), count)], Metadata())


def _metadata(source: _Source, settings: ExportSettings, name: str) -> dict[str, str]:
    return metadata_of(
        source.cfg,
        source.model,
        settings,
        source.class_names,
        name,
        category_ids=source.metadata.get("category_ids"),
        keypoint_names=source.metadata.get("keypoint_names"),
    )


def _of_test_set(source: _Source, count: int) -> list[Path]:
    """Images of the dataset that the detector was tested on; none where it has random weights, or the dataset is not here."""
    if not source.cfg.MODEL.WEIGHTS:
        return []
    cfg = source.cfg.clone()
    cfg.defrost()
    try:
        prepare_datasets(cfg, eval_only=True, write=False)
        entries = [entry for name in cfg.DATASETS.TEST[:1] for entry in DatasetCatalog.get(name)]
    except (ConfigError, DataError, OSError):
        return []
    # those with the most objects, on which there is most to compare
    entries = sorted(entries, key=lambda entry: -len(entry.get("annotations", ())))
    return [Path(entry["file_name"]) for entry in entries[: max(4, count)]]


def _photo(path: Path, cfg: CfgNode, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W), resized as in testing, and no larger than the exported size."""
    image = read_bgr(path, deep_images=cfg.INPUT.DEEP_IMAGES)
    if cfg.INPUT.FORMAT == "RGB":
        image = image[..., ::-1]
    height, width = image.shape[:2]
    if cfg.INPUT.MIN_SIZE_TEST:
        height, width = ResizeShortestEdge.get_output_shape(height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    if size is not None:
        scale = min(1.0, size[0] / height, size[1] / width)
        height, width = max(1, int(height * scale)), max(1, int(width * scale))
    resized = ResizeTransform(*image.shape[:2], height, width).apply_image(image)
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
