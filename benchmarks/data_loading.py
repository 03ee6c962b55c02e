"""How many images per second does a data worker prepare, beside Detectron2's mapper?

    DETECTRON2_DATASETS=../shared/data python benchmarks/data_loading.py

Images of ``coco_2017_train`` (for poses ``keypoints_coco_2017_train``), shorter side 800, mirrored at random, as in training. All mappers
take their turn on every image, in one process with one thread, as a worker does; processor time counts, so other work on the machine
disturbs little. Median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper

from detkit.config import get_cfg
from detkit.data import build_train_mapper
from detkit.engine.allocator import keep_freed_memory

Mapper = Callable[[dict[str, Any]], Any]


def mappers() -> dict[str, tuple[str, Mapper]]:
    """Dataset and mapper by name."""
    boxes, persons = "coco_2017_train", "keypoints_coco_2017_train"
    made: dict[str, tuple[str, Mapper]] = {}
    for name, dataset, mask_on, keypoint_on in (
        ("boxes", boxes, False, False),
        ("masks", boxes, True, False),
        ("keypoints", persons, False, True),
    ):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN, cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = (dataset,), mask_on, keypoint_on
        made[f"Detectron2, {name}"] = dataset, DatasetMapper(cfg, True)
        made[f"detkit, {name}"] = dataset, build_train_mapper(cfg)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.INPUT.RESIZE = (boxes,), "pillow"
    made["detkit, boxes, INPUT.RESIZE pillow"] = boxes, build_train_mapper(cfg)
    for task, dataset in (("bbox", boxes), ("segm", boxes), ("pose", persons)):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN, cfg.MODEL.LSNET.TASK, cfg.INPUT.MAPPER = (dataset,), task, "LandmarkMapper"
        made[f"LSNet, {task}"] = dataset, build_train_mapper(cfg)
    return made


def seconds_of(mapper: Mapper, record: dict[str, Any], seed: int) -> float:
    """Processor time of one image. All mappers draw the same flip."""
    np.random.seed(seed)
    start = time.process_time()
    mapper(record)
    return time.process_time() - start


def one_round(images: int, seed: int) -> dict[str, float]:
    """Images per second by mapper."""
    rates: dict[str, float] = {}
    every = mappers()
    for dataset in dict.fromkeys(name for name, _ in every.values()):
        records = [record for record in DatasetCatalog.get(dataset) if record["annotations"]][:images]
        group = {name: mapper for name, (used, mapper) in every.items() if used == dataset}
        rates |= _rates(group, records, seed)
    return rates


def _rates(group: dict[str, Mapper], records: Iterable[dict[str, Any]], seed: int) -> dict[str, float]:
    spent, count = dict.fromkeys(group, 0.0), 0
    for number, record in enumerate(records):
        for name, mapper in group.items():
            taken = seconds_of(mapper, record, seed + number)
            spent[name] += taken if number >= 3 else 0.0  # the first warm up
        count += number >= 3
    return {name: count / seconds for name, seconds in spent.items()}


def main() -> None:
    """Prints a Markdown table, and writes it as json where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="of each dataset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-freed-memory", action="store_true", help="with the allocator's settings of a training, for all mappers")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if args.keep_freed_memory:
        keep_freed_memory()
    rounds = [one_round(args.images, seed) for seed in range(args.rounds)]
    simplejpeg = "with" if importlib.util.find_spec("simplejpeg") else "without"
    conditions = (
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {simplejpeg} simplejpeg, "
        f"{args.images} images, {args.rounds} rounds"
    )
    rates = {name: sorted(each[name] for each in rounds) for name in rounds[0]}
    ratios = {name: statistics.median(each[name] / each[_beside(name)] for each in rounds) for name in rates}
    print(f"{conditions}\n\n| mapper | images per second | least to greatest | times Detectron2's |\n|---|---|---|---|")
    for name, each in rates.items():
        print(f"| {name} | {statistics.median(each):.1f} | {each[0]:.1f} to {each[-1]:.1f} | {ratios[name]:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"conditions": conditions, "images_per_second": rates, "times_detectron2": ratios}, indent=1))


def _beside(name: str) -> str:
    """Detectron2's mapper of the same annotations, or of the nearest."""
    kinds = {"masks": "masks", "segm": "masks", "keypoints": "keypoints", "pose": "keypoints"}
    return f"Detectron2, {next((kind for word, kind in kinds.items() if word in name), 'boxes')}"


if __name__ == "__main__":
    main()
