"""How well each image was detected: a number to sort by, and the objects behind it.

At a score threshold and an IoU threshold, COCO's matching makes each detection a hit or false and each object found or missed (crowds and
the detections on them do not count). The quality of an image is the panoptic quality of its detections (Kirillov et al., CVPR 2019,
equation 1)::

    sum of the IoU of the hits / (hits + false / 2 + missed / 2)

This is F1 times the mean IoU of the hits, so it lies in [0, 1], falls with each missed object and each false detection, and tells apart
images where all is found by how tightly the boxes fit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import CocoEvaluation

__all__ = ["ImageQuality", "best_score_threshold", "image_qualities"]


@dataclass
class ImageQuality:
    """What happened on one image.

    Args:
        image_id: of the COCO json, a number or a text.
        hits: IoU of every detection that found an object, by the detection's number in the list that was evaluated.
        false: numbers of the detections that found none.
        ignored: numbers of the detections on crowds, which count neither way.
        found, missed: ids of the objects' annotations.
    """

    image_id: Any
    hits: dict[int, float] = field(default_factory=dict)
    false: set[int] = field(default_factory=set)
    ignored: set[int] = field(default_factory=set)
    found: set[Any] = field(default_factory=set)
    missed: set[Any] = field(default_factory=set)

    @property
    def quality(self) -> float:
        """Panoptic quality in [0, 1]; NaN where there was nothing to find and nothing was found."""
        total = len(self.hits) + (len(self.false) + len(self.missed)) / 2
        return sum(self.hits.values()) / total if total else math.nan


def image_qualities(evaluation: CocoEvaluation, *, score_threshold: float, iou: float = 0.5) -> dict[Any, ImageQuality]:
    """The quality of every image of the ground truth, by image id. Detections below ``score_threshold`` do not count.

    Matching in order of falling scores, as COCO does, is the same with and without the detections below the threshold.
    """
    numbered = evaluation.numbered
    images = {image_id: ImageQuality(image_id) for image_id in numbered.image_ids}
    for matches in _matches(evaluation, iou):
        quality = images[numbered.image_ids[matches.image - 1]]
        found = set()
        for row, detection in enumerate(matches.detections):
            if matches.scores[row] < score_threshold:
                continue
            if matches.ignored[row]:
                quality.ignored.add(detection)
            elif matches.matched[row]:
                quality.hits[detection] = matches.overlap(row)
                found.add(int(matches.matched[row]))
            else:
                quality.false.add(detection)
        quality.found |= {numbered.annotation_ids[number - 1] for number in found}
        quality.missed |= {numbered.annotation_ids[number - 1] for number in set(matches.objects) - found}
    return images


def best_score_threshold(evaluation: CocoEvaluation, *, iou: float = 0.5) -> float:
    """The score threshold with the best F1 over the dataset, all classes together; 0 where no detection is right."""
    scores, hits, num_objects = [], [], 0
    for matches in _matches(evaluation, iou):
        counted = ~matches.ignored
        scores.append(matches.scores[counted])
        hits.append(matches.matched[counted] > 0)
        num_objects += len(matches.objects)
    if not scores or not np.concatenate(hits).any():
        return 0.0
    order = np.argsort(-np.concatenate(scores), kind="stable")
    sorted_scores, true_positives = np.concatenate(scores)[order], np.concatenate(hits)[order].cumsum()
    f1 = 2 * true_positives / (np.arange(1, len(order) + 1) + num_objects)
    last_of_equals = np.append(sorted_scores[1:] < sorted_scores[:-1], True)
    return float(sorted_scores[np.where(last_of_equals, f1, 0).argmax()])


@dataclass(frozen=True)
class _Matches:
    """COCO's matching of one image and class, by numbers of image and objects. D: detections, ordered by falling score."""

    image: int
    detections: list[int]
    scores: NDArray[np.float64]
    matched: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    objects: list[int]
    ious: NDArray[np.float64]
    iou_columns: dict[int, int]

    def overlap(self, row: int) -> float:
        return float(self.ious[row, self.iou_columns[int(self.matched[row])]])


def _matches(evaluation: CocoEvaluation, iou: float) -> Iterator[_Matches]:
    """The matches over all object sizes, at one IoU threshold."""
    coco_eval = evaluation.coco_eval
    level = int(np.flatnonzero(np.isclose(coco_eval.params.iouThrs, iou))[0])
    columns = _columns_of_objects(evaluation)
    all_sizes = coco_eval.params.areaRng[0]
    for entry in coco_eval.evalImgs:
        if entry is None or entry["aRng"] != all_sizes:
            continue
        key = entry["image_id"], entry["category_id"]
        yield _Matches(
            image=entry["image_id"],
            detections=[detection_id - 1 for detection_id in entry["dtIds"]],
            scores=np.array(entry["dtScores"], dtype=np.float64),
            matched=entry["dtMatches"][level],
            ignored=entry["dtIgnore"][level].astype(bool),
            objects=[i for i, ignore in zip(entry["gtIds"], entry["gtIgnore"], strict=True) if not ignore],
            ious=coco_eval.ious[key],
            iou_columns=columns[key],
        )


def _columns_of_objects(evaluation: CocoEvaluation) -> dict[tuple[int, int], dict[int, int]]:
    """Column of each object in COCO's IoU matrix of its image and class: they follow the order of the annotations."""
    columns: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    params = evaluation.coco_eval.params
    ground_truth = evaluation.numbered.coco
    for annotation in ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=params.imgIds, catIds=params.catIds)):
        of_class = columns[annotation["image_id"], annotation["category_id"]]
        of_class[annotation["id"]] = len(of_class)
    return columns
