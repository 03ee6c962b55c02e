"""How long does a data worker take for an image, beside Detectron2's mapper?

    DETECTRON2_DATASETS=../shared/data python benchmarks/data_loading.py

Images of ``coco_2017_train`` (for poses ``keypoints_coco_2017_train``), shorter side 800, mirrored at random, as in training. All mappers
take their turn on every image, in one process with one thread, as a worker does.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from timing import Report, Sample, arguments, clocked, same_conditions

from detkit.config import get_cfg
from detkit.data import build_train_mapper

Mapper = Callable[[dict[str, Any]], Any]

BOXES, PERSONS = "coco_2017_train", "keypoints_coco_2017_train"


def config(dataset: str, **keys: Any) -> CfgNode:
    """The defaults, with the dataset and these keys, ``__`` for a dot."""
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    return cfg


def mappers() -> dict[tuple[str, str], dict[str, Mapper]]:
    """By (annotations, dataset) and side."""
    found: dict[tuple[str, str], dict[str, Mapper]] = {}
    for learned, dataset, keys, task in (
        ("boxes", BOXES, {}, "bbox"),
        ("masks", BOXES, {"MODEL__MASK_ON": True}, "segm"),
        ("keypoints", PERSONS, {"MODEL__KEYPOINT_ON": True}, "pose"),
    ):
        landmarks = config(dataset, MODEL__LSNET__TASKS=[task], INPUT__MAPPER="LandmarkMapper")
        found[learned, dataset] = {
            "Detectron2": DatasetMapper(config(dataset, **keys), True),
            "ours": build_train_mapper(config(dataset, **keys)),
            "ours, INPUT.RESIZE pillow": build_train_mapper(config(dataset, INPUT__RESIZE="pillow", **keys)),
            "ours, LSNet's landmarks": build_train_mapper(landmarks),
        }
    return found


def one_by_one(mapper: Mapper, records: list[dict[str, Any]]) -> Callable[[], Sample]:
    """Measures the next image of a mapper. All mappers draw the same flips."""
    numbers: Iterator[int] = itertools.count()

    def sample() -> Sample:
        number = next(numbers)
        np.random.seed(number)
        return clocked(partial(mapper, records[number % len(records)]))

    return sample


def main() -> None:
    """Prints and writes the times."""
    parser = arguments(__doc__, json_name="data_loading")
    parser.add_argument("--images", type=int, default=200, help="of each dataset")
    args = parser.parse_args()
    same_conditions(args.threads)
    cv2.setNumThreads(0)
    count = 5 if args.quick else args.images
    decoder = "simplejpeg" if importlib.util.find_spec("simplejpeg") else "Pillow"
    title, question = "Data loading, an image in a data worker", str(__doc__).split("\n\n")[2]
    with Report(title, question, args.json, quick=args.quick, index=["annotations"], decoder=decoder) as report:
        for (learned, dataset), group in mappers().items():
            try:
                records = [record for record in DatasetCatalog.get(dataset) if record["annotations"]][:count]
            except FileNotFoundError as error:
                sys.exit(f"error: {error.filename} is not there: DETECTRON2_DATASETS has to name the folder that has coco/.")
            sides: Mapping[str, Callable[[], Sample]] = {side: one_by_one(mapper, records) for side, mapper in group.items()}
            report.compare({"annotations": learned}, sides, rounds=count, warm_up=3)


if __name__ == "__main__":
    main()
