"""Everything that is checked about a dataset before training starts."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .boxes import find_box_faults, repair_boxes
from .coco_format import read_coco_json
from .errors import DataError, Fault, describe_faults
from .images import find_image_faults

__all__ = ["CheckedData", "check_coco_folder", "write_json"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedData:
    """A dataset that can be used.

    Attributes:
        content: of the COCO json, without what was skipped or repaired by choice.
        changed: whether it differs from the file.
        skipped_images: what was wrong with the images left out.
    """

    content: dict[str, Any]
    changed: bool
    skipped_images: tuple[Fault, ...] = ()


def check_coco_folder(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    *,
    on_bad_image: Literal["error", "skip"] = "error",
    on_bad_box: Literal["error", "fix", "keep"] = "error",
    decode_images: bool = False,
) -> CheckedData:
    """Reads a COCO json, looks at its images and boxes and fills in what evaluation needs.

    Args:
        name: of the dataset, for messages.
        json_file, image_root: the annotation file and the folder of the images.
        on_bad_image: ``"skip"`` leaves out images that cannot be used, and says so, instead of failing.
        on_bad_box: ``"fix"`` ends boxes at the image's border and leaves out those that are then empty; ``"keep"`` leaves them to the
            mapper, which does the same for training, and to the evaluator. Both say so.
        decode_images: read every pixel of every image.

    Raises:
        DataError: one error with all that is wrong: counts, the first offenders of each kind, the remedy.
    """
    content = read_coco_json(json_file)
    faulty_images = find_image_faults(content["images"], image_root, decode=decode_images)
    image_faults, box_faults = list(faulty_images.values()), [fault for _, fault in find_box_faults(content)]
    where = f"{json_file}, images in {image_root}"
    _raise_if_bad(name, where, image_faults if on_bad_image == "error" else [], box_faults if on_bad_box == "error" else [])
    if image_faults:
        logger.warning("%s: %d images are left out (%s):\n%s", name, len(image_faults), where, describe_faults(image_faults))
    if box_faults:
        done = "clipped or left out" if on_bad_box == "fix" else "wrong and stay as they are"
        logger.warning("%s: %d boxes are %s (%s):\n%s", name, len(box_faults), done, where, describe_faults(box_faults))

    usable = _without_images(content, set(faulty_images)) if faulty_images else content
    if not usable["images"]:
        raise DataError(f"{name}: none of the {len(content['images'])} images of {json_file} can be used; they should lie in {image_root}.")
    usable = repair_boxes(usable) if box_faults and on_bad_box == "fix" else usable
    completed = _completed(usable)
    return CheckedData(completed, changed=completed is not content, skipped_images=tuple(image_faults))


def _raise_if_bad(name: str, where: str, image_faults: list[Fault], box_faults: list[Fault]) -> None:
    """One error for all faults that are not to be passed over."""
    remedies = []
    if image_faults:
        remedies.append('DATASETS.ON_BAD_IMAGE "skip" to leave these images out')
    if box_faults:
        remedies.append('DATASETS.ON_BAD_BOX "fix" to clip these boxes to their image and leave out those that are then empty')
    if remedies:
        faults = describe_faults([*image_faults, *box_faults])
        raise DataError(f"The dataset {name} cannot be used as it is ({where}):\n{faults}\nCorrect it, or set {' and '.join(remedies)}.")


def _without_images(content: dict[str, Any], image_ids: set) -> dict[str, Any]:
    images = [image for image in content["images"] if image["id"] not in image_ids]
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] not in image_ids]
    return {**content, "images": images, "annotations": annotations}


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """With ``info``, and with ``iscrowd`` and ``area`` of every annotation, without which pycocotools cannot evaluate."""
    incomplete = [a for a in content["annotations"] if "area" not in a or "iscrowd" not in a]
    if not incomplete and "info" in content:
        return content
    defaults = ({"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3]} for a in content["annotations"])
    annotations = [{**default, **a} for default, a in zip(defaults, content["annotations"], strict=True)]
    return {**content, "info": content.get("info", {}), "annotations": annotations}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes so that the file is never seen half written, also when several processes write the same at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
    os.replace(unfinished, path)
