"""Ground truth and detections under the ids 1, 2, 3, ..., whatever ids the files have.

pycocotools takes annotation id 0 for "no match", keeps ids in floating-point arrays and sorts them; so it is handed numbers, and the names
that the file gave to images, categories and annotations are put back into what comes out.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

from pycocotools.coco import COCO

from detkit.data import id_order, is_box, usable_segmentation

from .files import coco_of

__all__ = ["NumberedGroundTruth", "Task"]

Task = Literal["bbox", "segm", "keypoints"]


@dataclass(frozen=True)
class NumberedGroundTruth:
    """A copy of ground truth whose ids are numbers from 1 on.

    Attributes:
        coco: the copy, for pycocotools, with all that the task needs: objects without a mask have the outline of their box, those without
            keypoints have keypoints that are not labeled.
        image_ids, category_ids, annotation_ids: the names in the file, by number less one.
        num_outlines: objects, crowds aside, whose box stands in for a mask.
    """

    coco: COCO
    image_ids: list[Any]
    category_ids: list[Any]
    annotation_ids: list[Any]
    num_outlines: int = 0

    @classmethod
    def of(cls, content: dict[str, Any], task: Task, num_keypoints: int = 0) -> NumberedGroundTruth:
        """Images and categories are numbered in the order of their ids, annotations in the order of the file.

        Args:
            content: of a COCO file, see :func:`detkit.data.read_coco_json`; left as it is.
            num_keypoints: of an object, for the task "keypoints".
        """
        images, categories = (sorted(content[section], key=id_order) for section in ("images", "categories"))
        image_numbers, category_numbers = _numbers(images), _numbers(categories)
        made, num_outlines = [], 0
        for number, annotation in enumerate(content["annotations"], start=1):
            image_number = image_numbers[annotation["image_id"]]
            copy = {
                "id": number,
                "image_id": image_number,
                "category_id": category_numbers[annotation["category_id"]],
                "bbox": annotation["bbox"],
                "area": annotation["area"] if "area" in annotation else annotation["bbox"][2] * annotation["bbox"][3],
                "iscrowd": annotation.get("iscrowd", 0),
            }
            if task == "segm":
                mask = _mask(annotation, images[image_number - 1])
                num_outlines += mask is None and not copy["iscrowd"]
                copy["segmentation"] = mask or [_outline(annotation["bbox"])]
            elif task == "keypoints":
                copy |= _keypoints(annotation, num_keypoints)
            made.append(copy)
        numbered = {
            "info": {},
            "images": [{**image, "id": number} for number, image in enumerate(images, start=1)],
            "categories": [{**category, "id": number} for number, category in enumerate(categories, start=1)],
            "annotations": made,
        }
        image_ids, category_ids, annotation_ids = (
            [entry["id"] for entry in entries] for entries in (images, categories, content["annotations"])
        )
        return cls(coco_of(numbered), image_ids, category_ids, annotation_ids, num_outlines)

    def detections(self, detections: list[dict[str, Any]], task: Task) -> COCO:
        """Detections with the ids of the file, indexed for pycocotools; there may be none. The number of each is its position plus one.

        For masks the boxes are left out, so that objects are sized by the area of their mask, as Detectron2 does.
        """
        if not detections:
            return coco_of({**self.coco.dataset, "annotations": []})
        images, categories = (dict(zip(names, range(1, len(names) + 1), strict=True)) for names in (self.image_ids, self.category_ids))
        copies = [
            {key: value for key, value in detection.items() if task != "segm" or key != "bbox"}
            | {"image_id": images[detection["image_id"]], "category_id": categories[detection["category_id"]]}
            for detection in detections
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            return self.coco.loadRes(copies)


def _numbers(entries: list[dict[str, Any]]) -> dict[Any, int]:
    return {entry["id"]: number for number, entry in enumerate(entries, start=1)}


def _mask(annotation: dict[str, Any], image: dict[str, Any]) -> Any:
    return usable_segmentation(annotation.get("segmentation"), (image["height"], image["width"]))


def _keypoints(annotation: dict[str, Any], num_keypoints: int) -> dict[str, Any]:
    if not annotation.get("keypoints"):
        return {"keypoints": [0] * (3 * num_keypoints), "num_keypoints": 0}
    labeled = sum(flag > 0 for flag in annotation["keypoints"][2::3])
    return {"keypoints": annotation["keypoints"], "num_keypoints": annotation.get("num_keypoints", labeled)}


def _outline(box: Any) -> list[float]:
    x, y, width, height = box if is_box(box) else [0.0] * 4
    return [x, y, x + width, y, x + width, y + height, x, y + height]
