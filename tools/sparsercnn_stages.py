#!/usr/bin/env python
"""What each stage of a Sparse R-CNN does: its boxes on an image (figure 5 of the paper), or its AP (CrowdHuman: with mMR, Recall and JI).

python tools/sparsercnn_stages.py picture --config-file RUN/config.yaml --image photo.jpg MODEL.WEIGHTS RUN/model_final.pth
python tools/sparsercnn_stages.py ap --config-file RUN/config.yaml MODEL.WEIGHTS RUN/model_final.pth

RUN is the OUTPUT_DIR of a training; its config knows the number of classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from PIL import Image

from detkit.checkpoint import load_weights
from detkit.config import ConfigError, get_cfg
from detkit.data import prepare_datasets, read_image
from detkit.engine import evaluate
from detkit.engine.setup import resolve_config
from sparsercnn import SparseRCNN
from sparsercnn.pictures import side_by_side, stage_pictures


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line.

    Raises:
        SystemExit: bad input, with one message.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    picture = commands.add_parser("picture", help="learned proposals and the boxes of each stage on an image")
    picture.add_argument("--image", required=True, type=Path)
    picture.add_argument("--output", default=Path("stages.png"), type=Path, help="the picture to write")
    picture.add_argument("--score-thresh", default=0.3, type=float, help="boxes that score less are not drawn (the paper: 0.3)")
    ap = commands.add_parser("ap", help="box AP on DATASETS.TEST with the predictions of each stage")
    for command in (picture, ap):
        command.add_argument("--config-file", required=True)
        command.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of config keys")
    args = parser.parse_args(argv)
    try:
        cfg = get_cfg()
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
        if args.command == "picture":
            print(_picture(cfg, args.image, args.output, args.score_thresh))
        else:
            _print_ap(cfg)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"error: {error}")


def _load(cfg: CfgNode) -> tuple[CfgNode, SparseRCNN]:
    """The resolved config and its model with its weights."""
    cfg = resolve_config(cfg)
    model = build_model(cfg)
    if not isinstance(model, SparseRCNN) or not cfg.MODEL.WEIGHTS:
        raise ConfigError("Stages are those of a trained SparseRCNN: give its config and MODEL.WEIGHTS.")
    load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
    return cfg, model.eval()


def _picture(cfg: CfgNode, image: Path, output: Path, score_thresh: float) -> Path:
    cfg, model = _load(cfg)
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    rgb = read_image(image, "RGB")
    pictures = stage_pictures(model, rgb, resize=resize, channels=cfg.INPUT.FORMAT, score_thresh=score_thresh)
    Image.fromarray(side_by_side(pictures)).save(output)
    return output


def _print_ap(cfg: CfgNode) -> None:
    prepare_datasets(cfg, eval_only=True)
    cfg, model = _load(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    for stage in range(len(model.head.stages)):
        model.test_stage = stage
        each = cfg.clone()
        each.defrost()
        each.OUTPUT_DIR = str(folder / f"stage{stage + 1}")
        for name, results in evaluate(each, model).items():
            print(f"stage {stage + 1}, {name}: {_figures(results['bbox'])}", flush=True)


def _figures(box: dict[str, float]) -> str:
    """COCO's AP, AP50 and AP75; all there is of an evaluation without AP50, such as CrowdHuman's."""
    metrics = ("AP", "AP50", "AP75") if "AP50" in box else tuple(box)
    return "  ".join(f"{metric} {box[metric]:.2f}" for metric in metrics)


if __name__ == "__main__":
    main()
