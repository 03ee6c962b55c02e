"""What a training will learn from, after all checks and filters: whether there is anything, and whether it looks like a mistake."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .annotations import class_names, id_order
from .boxes import box_array
from .check import CheckedData
from .errors import DataError

__all__ = ["TrainingObjects", "check_annotations_of_tasks", "check_training_objects", "training_objects"]

logger = logging.getLogger(__name__)

#: share of the boxes from which something is wrong with all of them
_NEARLY_ALL = 0.9
_NAMED = 8


@dataclass(frozen=True)
class TrainingObjects:
    """The objects of one dataset that a model learns.

    Attributes:
        name: of the dataset.
        json_file: its annotation file.
        boxes: (N, 4) x, y, width, height in pixels.
        image_sizes: (N, 2) width and height of the image of each.
        classes: (N,) in the order of the categories' ids.
        class_names: in the same order.
        lost: why annotations of the file are not among them, and how many.
    """

    name: str
    json_file: str
    boxes: NDArray[np.float64]
    image_sizes: NDArray[np.float64]
    classes: NDArray[np.int64]
    class_names: list[str]
    lost: Counter[str]


def training_objects(name: str, json_file: str, content: dict[str, Any], num_in_file: int, *, needs_keypoints: bool) -> TrainingObjects:
    """What remains of a dataset.

    Args:
        name, json_file: of the dataset and of its annotation file, for messages.
        content: of the checked file, without what was left out.
        num_in_file: annotations in the file as it is.
        needs_keypoints: whether objects without a labeled keypoint are not learned.
    """
    annotations = content["annotations"]
    lost: Counter[str] = Counter()
    lost["left out with their image or for their box"] = num_in_file - len(annotations)
    objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
    lost["crowds ('iscrowd' 1)"] = len(annotations) - len(objects)
    if needs_keypoints:
        labeled = [annotation for annotation in objects if annotation.get("keypoints") and any(annotation["keypoints"][2::3])]
        lost["without a labeled keypoint"] = len(objects) - len(labeled)
        objects = labeled
    boxes, known = box_array(objects)
    kept = known & (boxes[:, 2:] > 0).all(axis=1)
    lost["without a box of any size"] = int((~kept).sum())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    order = {category["id"]: number for number, category in enumerate(sorted(content["categories"], key=id_order))}
    return TrainingObjects(
        name=name,
        json_file=json_file,
        boxes=boxes[kept],
        image_sizes=np.array([sizes[annotation["image_id"]] for annotation in objects], dtype=np.float64).reshape(-1, 2)[kept],
        classes=np.array([order[annotation["category_id"]] for annotation in objects], dtype=np.int64)[kept],
        class_names=class_names(content["categories"]),
        lost=+lost,
    )


def check_training_objects(sets: Sequence[TrainingObjects], *, resizing: tuple[int, int], finest_stride: int) -> None:
    """Stops where there is nothing to learn, and warns, with numbers, of what looks like a mistake.

    Args:
        resizing: the shorter side that images are resized to, and the most that their longer side may have.
        finest_stride: distance in pixels of the locations at which the model looks for the smallest objects.

    Raises:
        DataError: not one object is left; says what became of them.
    """
    names = ", ".join(each.name for each in sets)
    lost = sum((each.lost for each in sets), Counter())
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost.most_common()) or "the files list no annotations"
    kept, num_lost = sum(len(each.boxes) for each in sets), sum(lost.values())
    if not kept:
        files = ", ".join(each.json_file for each in sets)
        raise DataError(f"There is no object to train on in {names} ({files}): {reasons}. Add annotations, or name another file.")
    for each in sets:
        if not len(each.boxes):
            logger.warning("%s: there is no object to train on in %s; the other datasets have some.", each.name, each.json_file)
    if num_lost > kept:
        logger.warning("%s: only %d objects are left to train on; more were lost: %s.", names, kept, reasons)
    _warn_of_absent_classes(names, sets)
    boxes, sizes = (np.concatenate([getattr(each, field) for each in sets]) for field in ("boxes", "image_sizes"))
    fractions = (boxes <= 1).all(axis=1) & (sizes > 2).all(axis=1)
    if fractions.mean() > _NEARLY_ALL:
        example, (width, height) = boxes[fractions][0].round(3).tolist(), sizes[fractions][0].astype(int)
        logger.warning(
            "%s: %.0f %% of the boxes lie within one pixel, as if they were fractions of the image (%s in an image of %dx%d). "
            "Boxes are x, y, width and height in pixels.",
            names,
            100 * fractions.mean(),
            example,
            width,
            height,
        )
        return
    _warn_of_tiny_boxes(names, boxes, sizes, resizing, finest_stride)


def check_annotations_of_tasks(sets: Sequence[CheckedData], tasks: Sequence[str], *, key: str) -> None:
    """Says how many objects lack what one of several tasks learns, and so learn the other ones alone.

    Args:
        sets: the datasets to train on.
        tasks: "segm" learns masks, "pose" keypoints, others boxes.
        key: that names the tasks, for messages.

    Raises:
        DataError: no object has what a task learns.
    """
    names = ", ".join(each.name for each in sets)
    objects = [annotation for each in sets for annotation in each.content["annotations"] if not annotation["iscrowd"]]
    for task, (wanted, has) in _ANNOTATIONS.items():
        lacking = sum(not has(annotation) for annotation in objects) if task in tasks else 0
        if lacking and lacking == len(objects):
            files = ", ".join(each.json_file for each in sets)
            raise DataError(
                f"{key} names '{task}', but none of the {lacking} objects of {names} ({files}) has a {wanted}. Add them, or leave "
                f"'{task}' out."
            )
        if lacking:
            logger.info("%s: %d of %d objects have no %s; the loss of '%s' leaves them out.", names, lacking, len(objects), wanted, task)


def _has_mask(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("segmentation"))


def _has_keypoints(annotation: Mapping[str, Any]) -> bool:
    return any((annotation.get("keypoints") or ())[2::3])


#: by task, what it learns, and whether an annotation has it
_ANNOTATIONS = {"segm": ("mask", _has_mask), "pose": ("labeled keypoint", _has_keypoints)}


def _warn_of_absent_classes(names: str, sets: Sequence[TrainingObjects]) -> None:
    known = sets[0].class_names
    present = set(np.concatenate([each.classes for each in sets]).tolist())
    absent = [name for number, name in enumerate(known) if number not in present]
    if absent:
        shown = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
        logger.warning("%s: %d of %d classes have no object to train on: %s.", names, len(absent), len(known), shown)


def _warn_of_tiny_boxes(
    names: str, boxes: NDArray[np.float64], sizes: NDArray[np.float64], resizing: tuple[int, int], finest_stride: int
) -> None:
    shortest, longest = resizing
    scale = np.minimum(shortest / sizes.min(axis=1), longest / sizes.max(axis=1)) if shortest else np.ones(len(sizes))
    sides = boxes[:, 2:].max(axis=1) * scale
    tiny = sides < finest_stride
    if tiny.mean() > _NEARLY_ALL:
        logger.warning(
            "%s: %.0f %% of the objects are smaller than the %d pixels between the locations of the finest level, once images are resized "
            "(half of them have at most %.1f pixels). Train on larger images (INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN) or on crops.",
            names,
            100 * tiny.mean(),
            finest_stride,
            np.median(sides),
        )
