"""What every size adds to multi-scale testing: the AP of each alone, mirrored, and merged with those before it; then every way of merging.

    python benchmarks/multiscale.py --config-file configs/quick/atss_mobilenetv2.yaml DATASETS.VAL_JSON DIR/annotations/val.json \
        MODEL.WEIGHTS output/model_final.pth TEST.AUG.MIN_SIZES "(256,192,224,288,320,384)" TEST.AUG.MAX_SIZE 768

The sizes are taken in the order of ``TEST.AUG.MIN_SIZES``; the first should be that of testing at a single scale. Areas are looked at
where ``TEST.AUG.AREA_RANGES`` says so. The model runs once; tables are printed and written to ``OUTPUT_DIR/multiscale.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from tqdm import tqdm

from detkit.checkpoint import load_weights
from detkit.data import prepare_datasets
from detkit.engine.setup import read_config, resolve_config
from detkit.evaluation import build_evaluator
from detkit.tta import MultiScaleDetector, View, build_multi_scale_detector

Chooser = Callable[[View], bool]


def _alone(size: int, view: View) -> bool:
    return view.scale == size and not view.mirrored


def _mirrored_too(size: int, view: View) -> bool:
    return view.scale == size


def _and_before(size: int, view: View) -> bool:
    return view.scale <= size


@dataclass(frozen=True)
class Variant:
    """One way of testing: which views of an image, and how they are merged."""

    name: str
    detector: MultiScaleDetector
    chooses: Chooser
    evaluator: DatasetEvaluator


def variants(cfg: CfgNode, model: torch.nn.Module) -> Iterator[Variant]:
    """All that is compared."""
    dataset = cfg.DATASETS.TEST[0]

    def variant(name: str, chooses: Chooser, **aug: object) -> Variant:
        changed = cfg.clone()
        changed.defrost()
        changed.TEST.AUG.update(aug)
        folder = Path(cfg.OUTPUT_DIR) / "multiscale" / name.replace(" ", "_").replace(",", "")
        detector = build_multi_scale_detector(changed, model, dataset)
        return Variant(name, detector, chooses, build_evaluator(cfg, dataset, folder))

    for i, size in enumerate(cfg.TEST.AUG.MIN_SIZES):
        yield variant(f"{size} alone", partial(_alone, i), AREA_RANGES=[], MERGE_THRESH=1.0)
        yield variant(f"{size} mirrored too", partial(_mirrored_too, i), AREA_RANGES=[])
        yield variant(f"{size} and those before", partial(_and_before, i))
    for way in ("nms", "vote", "soft_vote"):
        if cfg.TEST.AUG.AREA_RANGES:
            yield variant(f"all, {way}, areas of all", lambda view: True, MERGE=way, AREA_RANGES=[])
        yield variant(f"all, {way}", lambda view: True, MERGE=way)


def measure(cfg: CfgNode, model: torch.nn.Module) -> dict[str, float]:
    """Box AP in percent of every variant."""
    compared = list(variants(cfg, model))
    full_size = cfg.clone()
    full_size.defrost()
    full_size.INPUT.MIN_SIZE_TEST = 0
    for each in compared:
        each.evaluator.reset()
    for batch in tqdm(build_detection_test_loader(full_size, cfg.DATASETS.TEST[0]), unit="img"):
        for inputs in batch:
            views = list(compared[0].detector.views(inputs))
            for each in compared:
                merged = each.detector.merge([view for view in views if each.chooses(view)])
                each.evaluator.process([inputs], [{"instances": merged}])
    with contextlib.redirect_stdout(io.StringIO()):
        return {each.name: each.evaluator.evaluate()["bbox"]["AP"] for each in compared}


def print_tables(cfg: CfgNode, ap: dict[str, float]) -> None:
    sizes, before = cfg.TEST.AUG.MIN_SIZES, ap[f"{cfg.TEST.AUG.MIN_SIZES[0]} alone"]
    print(f"Box AP; merged: with all sizes before it, by {cfg.TEST.AUG.MERGE}.")
    print(f"{'size':>6} {'alone':>8} {'mirrored':>9} {'merged':>8} {'gain':>6}")
    for size in sizes:
        merged = ap[f"{size} and those before"]
        print(f"{size:6d} {ap[f'{size} alone']:8.2f} {ap[f'{size} mirrored too']:9.2f} {merged:8.2f} {merged - before:+6.2f}")
        before = merged
    for name, value in ap.items():
        if name.startswith("all"):
            print(f"{name:28s} {value:6.2f}  ({value - ap[f'{sizes[0]} alone']:+.2f} to {sizes[0]} alone)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config: KEY VALUE ...")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = read_config(args)
    prepare_datasets(cfg, eval_only=True)
    cfg = resolve_config(cfg)
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
    with torch.no_grad():
        ap = measure(cfg, model)
    print_tables(cfg, ap)
    path = Path(cfg.OUTPUT_DIR) / "multiscale.json"
    path.write_text(json.dumps({"weights": cfg.MODEL.WEIGHTS, "merge": cfg.TEST.AUG.MERGE, "AP": ap}, indent=1) + "\n")


if __name__ == "__main__":
    main()
