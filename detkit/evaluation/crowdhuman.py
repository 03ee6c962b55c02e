"""CrowdHuman's evaluation behind Detectron2's interface."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode
from detectron2.utils import comm
from numpy.typing import NDArray

from .crowdhuman_metrics import CrowdScene, crowd_metrics
from .files import DETECTIONS_FILE, write_unreadable

__all__ = ["CrowdHumanEvaluator"]

logger = logging.getLogger(__name__)

_PERSON = 0
#: keys of the results by field of CrowdMetrics
_NAMES = {"ap": "AP", "mmr": "mMR", "recall": "Recall", "ji": "JI"}


class CrowdHumanEvaluator(DatasetEvaluator):
    """AP, mMR, recall and JI in percent of the detections of class 0, see :mod:`detkit.evaluation.crowdhuman_metrics`.

    Detections are saved in COCO's result format, as ``COCOEvaluator`` does, beside the ground truth in COCO's format, so that other tools
    can read them.

    Args:
        dataset_name: a registered dataset with one class; its crowd annotations are regions to ignore.
        output_dir: for the two files; None: nothing is saved.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | os.PathLike[str] | None) -> None:
        self._dataset_name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def leave_out(self, image_ids: Sequence[Any]) -> None:
        """These images do not count, since they could not be read."""
        self._left_out |= set(image_ids)

    def reset(self) -> None:
        self._left_out: set[Any] = set()
        self._found: dict[Any, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            found = found[found.pred_classes == _PERSON]
            boxes = found.pred_boxes.tensor if isinstance(found.pred_boxes, Boxes) else found.pred_boxes
            self._found[image["image_id"]] = (boxes.double().numpy().reshape(-1, 4), found.scores.double().numpy())

    def evaluate(self) -> dict[str, dict[str, float]]:
        """``{"bbox": {"AP": ..., "mMR": ..., "Recall": ..., "JI": ...}}`` on the first worker, empty on the others.

        An image of the dataset that was not processed counts as one on which nothing was found.
        """
        comm.synchronize()
        gathered = comm.gather((self._found, self._left_out), dst=0)
        if not comm.is_main_process():
            return {}
        found = dict(itertools.chain.from_iterable(part.items() for part, _ in gathered))
        left_out = set().union(*(part for _, part in gathered))
        if self._output_dir is not None:
            self._save(self._output_dir, found)
            write_unreadable(self._output_dir, left_out)
        nothing = np.zeros((0, 4)), np.zeros(0)
        images = (image for image in DatasetCatalog.get(self._dataset_name) if image["image_id"] not in left_out)
        metrics = crowd_metrics(_scene(image, *found.get(image["image_id"], nothing)) for image in images)
        logger.debug("The Jaccard index is that at a score threshold of %.1f.", metrics.ji_threshold)
        return {"bbox": {_NAMES[key]: 100 * value for key, value in asdict(metrics).items() if key in _NAMES}}

    def _save(self, folder: Path, found: dict[Any, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        convert_to_coco_json(self._dataset_name, str(folder / f"{self._dataset_name}_coco_format.json"), allow_cached=False)
        results = [
            {"image_id": image_id, "category_id": _PERSON + 1, "bbox": [round(value, 3) for value in box], "score": score}
            for image_id, (boxes, scores) in found.items()
            for box, score in zip((boxes - np.tile(boxes[:, :2], 2) * [0, 0, 1, 1]).tolist(), scores.tolist(), strict=True)
        ]
        (folder / DETECTIONS_FILE).write_text(json.dumps(results))


def _scene(image: dict[str, Any], boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> CrowdScene:
    annotations = image["annotations"]
    objects = np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations], dtype=float).reshape(-1, 4)
    ignored = np.array([a["iscrowd"] for a in annotations], dtype=bool)
    return CrowdScene(
        size=(image["height"], image["width"]), persons=objects[~ignored], ignore_regions=objects[ignored], boxes=boxes, scores=scores
    )
