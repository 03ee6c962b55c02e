"""The figures of CrowdHuman: AP, mMR and recall after Caltech's matching, and the Jaccard index after maximum matching.

They differ from COCO's in every respect: one IoU threshold, regions to ignore that take any number of detections by their share of the
detection's area, all detections of an image, and no interpolation of precision. What the papers leave open (Dollar et al., "Pedestrian
Detection: An Evaluation of the State of the Art"; Chu et al., "Detection in Crowded Scenes: One Proposal, Multiple Predictions") follows
the evaluation code of xg-chu/CrowdDet, with which the published figures were computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

__all__ = ["CrowdMetrics", "CrowdScene", "crowd_metrics"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: false positives per image at which miss rates are averaged, as rounded in the official code
_REFERENCE_FPPI = np.array([0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000])
#: of the Jaccard index
_SCORE_THRESHOLDS = tuple(i / 10 for i in range(10))
#: keeps overlaps of empty boxes finite
_EPS = 1e-6


@dataclass(frozen=True)
class CrowdScene:
    """One image: what is there and what was found. Boxes are xyxy in pixels and are clipped to the image.

    Attributes:
        size: (height, width).
        persons: (P, 4) to be found.
        ignore_regions: (R, 4) where detections do not count.
        boxes: (D, 4) detections.
        scores: (D,) in [0, 1].
    """

    size: tuple[int, int]
    persons: Floats
    ignore_regions: Floats
    boxes: Floats
    scores: Floats


@dataclass(frozen=True)
class CrowdMetrics:
    """All in [0, 1]; NaN without a person to find.

    Attributes:
        ap: average precision, the area below the precision-recall curve.
        mmr: log-average miss rate (MR^-2): geometric mean of the miss rate at nine numbers of false positives per image from 0.01 to 1.
            Lower is better.
        recall: of all detections.
        ji: Jaccard index at the best score threshold, the mean over images of the number of matched pairs divided by the number of
            detections and persons together, each pair counted once.
        ji_threshold: that threshold, on detections' scores.
    """

    ap: float
    mmr: float
    recall: float
    ji: float
    ji_threshold: float


@dataclass(frozen=True)
class _Overlaps:
    """Which detections of an image, best first, lie on what.

    Attributes:
        scores: (D,) descending.
        pairs: (E, 2) detection and person whose IoU exceeds the threshold; of a detection the best person first.
        ignorable: (D,) whether an ignore region has more than the threshold's share of the detection.
        persons_ignorable: (P,) the same for persons.
    """

    scores: Floats
    pairs: Ints
    ignorable: Bools
    persons_ignorable: Bools


def crowd_metrics(scenes: Iterable[CrowdScene], *, iou_threshold: float = 0.5) -> CrowdMetrics:
    """The figures of a dataset.

    Args:
        scenes: all its images, also those without detections.
        iou_threshold: above which a detection and a person match; also the share of a detection that an ignore region must have.
    """
    overlaps = [_overlaps(scene, iou_threshold) for scene in scenes]
    num_persons = sum(len(image.persons_ignorable) for image in overlaps)
    if not num_persons:
        return CrowdMetrics(*[float("nan")] * 5)
    ap, mmr, recall = _curve_metrics(overlaps, num_persons)
    ji, threshold = max((_jaccard_index(overlaps, threshold), -threshold) for threshold in _SCORE_THRESHOLDS)
    return CrowdMetrics(ap=ap, mmr=mmr, recall=recall, ji=ji, ji_threshold=-threshold)


# AP, miss rate and recall -----------------------------------------------------------------------------------------------------------------


def _curve_metrics(overlaps: list[_Overlaps], num_persons: int) -> tuple[float, float, float]:
    scores = np.concatenate([image.scores for image in overlaps])
    found = np.concatenate([_find_persons(image) for image in overlaps])
    counted = found | ~np.concatenate([image.ignorable for image in overlaps])
    found = found[counted][np.argsort(-scores[counted], kind="stable")]
    if not len(found):
        return 0.0, 1.0, 0.0
    true_positives, false_positives = np.cumsum(found), np.cumsum(~found)
    recall = true_positives / num_persons
    precision = true_positives / np.arange(1, len(found) + 1)
    area = (np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()
    return float(area), _log_average_miss_rate(1 - recall, false_positives / len(overlaps)), float(recall[-1])


def _log_average_miss_rate(miss_rate: Floats, false_per_image: Floats) -> float:
    """At each reference the miss rate where it is first reached, or the last one where it is not."""
    reached = np.searchsorted(false_per_image, _REFERENCE_FPPI, side="left").clip(max=len(miss_rate) - 1)
    with np.errstate(divide="ignore"):  # nothing missed: log 0, whose mean is a miss rate of 0
        return float(np.exp(np.log(miss_rate[reached]).mean()))


def _find_persons(image: _Overlaps) -> Bools:
    """Caltech's matching: from the best detection down, each takes the person with the highest IoU that nobody has taken. (D,)"""
    finds, taken = [False] * len(image.scores), [False] * len(image.persons_ignorable)
    for detection, person in image.pairs.tolist():
        if not finds[detection] and not taken[person]:
            finds[detection] = taken[person] = True
    return np.array(finds, dtype=bool)


# Jaccard index --------------------------------------------------------------------------------------------------------------------------


def _jaccard_index(overlaps: list[_Overlaps], score_threshold: float) -> float:
    """Mean over images of the number of matches over that of detections and persons together, matches counted once.

    As many detections and persons as possible are matched. What is left unmatched in ignore regions does not count, detections and
    persons alike. Images in which nothing counts are left out of the mean (the official code gives them 0; CrowdHuman has none).
    """
    kept = [int((image.scores > score_threshold).sum()) for image in overlaps]
    matched, persons_matched = _match_all(overlaps, kept)
    ratios = []
    for image, count, detections, persons in zip(overlaps, kept, matched, persons_matched, strict=True):
        num_detections = (detections | ~image.ignorable[:count]).sum()
        num_persons = (persons | ~image.persons_ignorable).sum()
        union = num_detections + num_persons - detections.sum()
        if union:
            ratios.append(detections.sum() / union)
    return float(np.mean(ratios)) if ratios else 0.0


def _match_all(overlaps: list[_Overlaps], kept: list[int]) -> tuple[list[Bools], list[Bools]]:
    """Which of the ``kept`` best detections, and which persons, of each image a maximum matching matches.

    The images are the unconnected parts of one graph, so that one call does for all.
    """
    persons = [len(image.persons_ignorable) for image in overlaps]
    detection_starts, person_starts = np.cumsum([0, *kept]), np.cumsum([0, *persons])
    edges = [image.pairs[image.pairs[:, 0] < count] for image, count in zip(overlaps, kept, strict=True)]
    rows = np.concatenate([pairs[:, 0] + start for pairs, start in zip(edges, detection_starts[:-1], strict=True)])
    columns = np.concatenate([pairs[:, 1] + start for pairs, start in zip(edges, person_starts[:-1], strict=True)])
    shape = (max(detection_starts[-1], 1), person_starts[-1])  # SciPy has no graphs without rows
    graph = csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)
    partner = maximum_bipartite_matching(graph, perm_type="column")[: detection_starts[-1]]
    person_matched = np.zeros(person_starts[-1], dtype=bool)
    person_matched[partner[partner >= 0]] = True
    return np.split(partner >= 0, detection_starts[1:-1]), np.split(person_matched, person_starts[1:-1])


# overlaps of boxes ------------------------------------------------------------------------------------------------------------------------


def _overlaps(scene: CrowdScene, threshold: float) -> _Overlaps:
    order = np.argsort(-scene.scores, kind="stable")
    boxes, persons, regions = (_clipped(b, scene.size) for b in (scene.boxes[order], scene.persons, scene.ignore_regions))
    iou = _intersections(boxes, persons)
    iou /= _areas(boxes)[:, None] + _areas(persons) - iou + _EPS
    detection, person = np.nonzero(iou > threshold)
    best_first = np.lexsort((-iou[detection, person], detection))
    return _Overlaps(
        scores=scene.scores[order],
        pairs=np.stack([detection, person], axis=1)[best_first],
        ignorable=_lies_in(boxes, regions, threshold),
        persons_ignorable=_lies_in(persons, regions, threshold),
    )


def _clipped(boxes: Floats, size: tuple[int, int]) -> Floats:
    """As the official code clips: the near corner stays on the last pixel, the far one reaches its border."""
    height, width = size
    return np.clip(boxes, 0, [width - 1, height - 1, width, height])


def _lies_in(boxes: Floats, regions: Floats, threshold: float) -> Bools:
    """Whether a single region has more than this share of a box. (N,)"""
    shares = _intersections(boxes, regions) / (_areas(boxes)[:, None] + _EPS)
    return shares.max(axis=1, initial=0.0) > threshold


def _intersections(boxes: Floats, others: Floats) -> Floats:
    near = np.maximum(boxes[:, None, :2], others[None, :, :2])
    far = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.clip(far - near, 0, None), axis=2)


def _areas(boxes: Floats) -> Floats:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
