"""COCO annotations as Detectron2's dataset dicts."""

from __future__ import annotations

import os
from typing import Any

from detectron2.structures import BoxMode

from .checks import id_order, usable_segmentation

__all__ = ["coco_records"]


def coco_records(content: dict[str, Any], image_root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What Detectron2's ``load_coco_json`` makes of a file, from its parsed content, which stays as it is.

    Categories are numbered in the order of their ids, images stand in the order of theirs. Every object is there: one whose
    ``segmentation`` is no mask is an object without a mask; one without keypoints, among others that have some, has unlabeled ones.

    Args:
        content: see :func:`detkit.data.read_coco_json`.
        image_root: folder of the images.
    """
    classes = {category["id"]: number for number, category in enumerate(sorted(content["categories"], key=id_order))}
    records = {
        image["id"]: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in sorted(content["images"], key=id_order)
    }
    unlabeled = [0.5, 0.5, 0] * _num_keypoints(content)
    for annotation in content.get("annotations", ()):
        record = records[annotation["image_id"]]
        record["annotations"].append(_object(annotation, classes, (record["height"], record["width"]), unlabeled))
    return list(records.values())


def _num_keypoints(content: dict[str, Any]) -> int:
    """Of the objects that have keypoints; 0 where none has."""
    return next((len(a["keypoints"]) // 3 for a in content.get("annotations", ()) if a.get("keypoints")), 0)


def _object(annotation: dict[str, Any], classes: dict[Any, int], image_size: tuple[int, int], unlabeled: list[float]) -> dict[str, Any]:
    made = {"iscrowd": annotation["iscrowd"], "bbox": annotation["bbox"], "category_id": classes[annotation["category_id"]]}
    segmentation = usable_segmentation(annotation.get("segmentation"), image_size)
    if segmentation:
        made["segmentation"] = segmentation
    keypoints = annotation.get("keypoints")
    if keypoints:  # indices of pixels, whose centers lie half a pixel further
        made["keypoints"] = [value if index % 3 == 2 else value + 0.5 for index, value in enumerate(keypoints)]
    elif unlabeled:
        made["keypoints"] = list(unlabeled)
    made["bbox_mode"] = BoxMode.XYWH_ABS
    return made
