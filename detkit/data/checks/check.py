"""Everything that is checked about a dataset before training starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..reading import DeepImages
from .annotations import open_annotations
from .boxes import find_box_faults, repair_boxes
from .errors import DataError, DataFault, describe_faults
from .images import find_image_faults
from .json_file import collector_paused
from .masks import find_mask_faults
from .schema import Findings

__all__ = ["CheckedData", "check_coco_folder", "without_images"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedData:
    """A dataset that can be used.

    Attributes:
        name: of the dataset.
        json_file: its annotation file.
        content: of the COCO json, without what was skipped or repaired by choice. It is shared: do not change it.
        changed: whether it differs from the file.
        num_in_file: annotations in the file as it is.
        skipped_images: what was wrong with the images left out.
        box_faults: what was wrong with boxes that were repaired, left out or kept.
    """

    name: str
    json_file: str
    content: dict[str, Any]
    changed: bool
    num_in_file: int
    skipped_images: tuple[DataFault, ...] = ()
    box_faults: tuple[DataFault, ...] = ()


@collector_paused()
def check_coco_folder(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    on_bad_image: Literal["error", "skip"] = "error",
    on_bad_box: Literal["error", "fix", "keep"] = "error",
    decode_images: bool = False,
    needs_annotations: bool = True,
    deep_images: DeepImages = "error",
    resizing: Sequence[tuple[int, int]] = (),
    masks: Literal["unused", "used", "needed"] = "unused",
) -> CheckedData:
    """Reads a COCO json, looks at its fields, boxes and images and fills in what evaluation needs.

    Args:
        name: of the dataset, for messages.
        json_file, image_root: the annotation file and the folder of the images.
        on_bad_image: ``"skip"`` leaves out images that cannot be used, and says so, instead of failing.
        on_bad_box: ``"fix"`` ends boxes at the image's border and leaves out those that are then empty; ``"keep"`` leaves them to the
            mapper, which does the same for training, and to the evaluator. Both say so.
        decode_images: read every pixel of every image.
        needs_annotations: whether a file without ``annotations``, such as those of COCO's test sets, is an error.
        deep_images, resizing: see :func:`detkit.data.checks.images.find_image_faults`.
        masks: whether the model learns masks, so that their form counts: ``"used"`` where an object may have none, ``"needed"`` where
            all have to have one.

    Raises:
        DataError: one error with all that is wrong: counts, the first offenders of each kind, the remedy.
    """
    opened = open_annotations(json_file)
    content, findings = opened.content, opened.findings
    _require_entries(content, json_file, needs_annotations)
    images = [image for _, image in findings.usable("images", content["images"])]
    faulty_images = find_image_faults(images, image_root, decode=decode_images, deep_images=deep_images, resizing=resizing)
    if masks != "unused" and "annotations" in content:
        findings = replace(findings, faults=[*findings.faults, *find_mask_faults(content, findings, may_lack=masks == "used")])
    box_faults = find_box_faults(content, findings)
    where = f"{json_file}, images in {image_root}"
    _raise_if_bad(
        name,
        where,
        findings,
        list(faulty_images.values()) if on_bad_image == "error" else [],
        list(box_faults.values()) if on_bad_box == "error" else [],
    )
    _report(name, where, list(faulty_images.values()), list(box_faults.values()), on_bad_box)
    usable = repair_boxes(content, box_faults) if box_faults and on_bad_box == "fix" else content
    usable = without_images(usable, set(faulty_images))
    if not usable["images"]:
        raise DataError(f"{name}: none of the {len(content['images'])} images of {json_file} can be used; they should lie in {image_root}.")
    return CheckedData(
        name,
        str(json_file),
        usable,
        changed=opened.repaired or usable is not content,
        num_in_file=len(content.get("annotations", [])),
        skipped_images=tuple(faulty_images.values()),
        box_faults=tuple(box_faults.values()),
    )


def _require_entries(content: dict[str, Any], json_file: str | os.PathLike[str], needs_annotations: bool) -> None:
    if needs_annotations and "annotations" not in content:
        raise DataError(
            f"{json_file} is not a COCO annotation file: 'annotations' is missing. It has: {', '.join(content)}. Files without annotations "
            "can only be evaluated on (DATASETS.VAL_JSON, DATASETS.TEST)."
        )
    for section in ("images", "categories"):
        if not content[section]:
            raise DataError(f"{json_file} lists no {section}. Name another file or add them.")


def _raise_if_bad(name: str, where: str, findings: Findings, image_faults: list[DataFault], box_faults: list[DataFault]) -> None:
    """One error for all faults that are not to be passed over."""
    faults = [*findings.faults, *image_faults, *box_faults]
    if not faults:
        return
    remedies = []
    if image_faults:
        remedies.append('DATASETS.ON_BAD_IMAGE "skip" to leave these images out')
    if box_faults:
        remedies.append('DATASETS.ON_BAD_BOX "fix" to clip these boxes to their image and leave out those that are then empty')
    remedy = f"Correct it, or set {' and '.join(remedies)}." if remedies else "Correct the file."
    if findings.faults and remedies:
        remedy = f"Correct the file; for images and boxes you may set {' and '.join(remedies)}."
    raise DataError(f"The dataset {name} cannot be used as it is ({where}):\n{describe_faults(faults)}\n{remedy}")


def _report(name: str, where: str, image_faults: list[DataFault], box_faults: list[DataFault], on_bad_box: str) -> None:
    if image_faults:
        logger.warning("%s: %d images are left out (%s):\n%s", name, len(image_faults), where, describe_faults(image_faults))
    if box_faults:
        done = "clipped or left out" if on_bad_box == "fix" else "wrong and stay as they are"
        logger.warning("%s: %d boxes are %s (%s):\n%s", name, len(box_faults), done, where, describe_faults(box_faults))


def without_images(content: dict[str, Any], image_ids: Collection[Any]) -> dict[str, Any]:
    """The content of a COCO file without some images and what is annotated on them."""
    if not image_ids:
        return content
    images = [image for image in content["images"] if image["id"] not in image_ids]
    annotations = [annotation for annotation in content.get("annotations", []) if annotation["image_id"] not in image_ids]
    return {**content, "images": images, **({"annotations": annotations} if "annotations" in content else {})}
