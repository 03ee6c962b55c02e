"""Masks of annotations: which of them are masks, and what is wrong with the others."""

from __future__ import annotations

import math
from typing import Any

from pycocotools import mask as mask_util

from .errors import DataFault
from .schema import Findings, shown

__all__ = ["find_mask_faults", "usable_segmentation"]

_NUMBER = {int, float}


def usable_segmentation(segmentation: Any, image_size: tuple[int, int]) -> list[list[float]] | dict[str, Any] | None:
    """The mask in an annotation's ``segmentation``: polygons of at least three points, or compressed run lengths; None where there is none.

    Args:
        image_size: (height, width) of the image, which run lengths have to fill.
    """
    if isinstance(segmentation, list):
        return [part for part in segmentation if _is_polygon(part)] or None
    if not isinstance(segmentation, dict) or _fault_of_runs(segmentation, image_size):
        return None
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *image_size)
    return segmentation


def find_mask_faults(content: dict[str, Any], findings: Findings, *, may_lack: bool) -> list[DataFault]:
    """The objects, crowds aside, whose mask cannot be learned.

    Args:
        content, findings: of a COCO file; entries that have other faults are passed over.
        may_lack: whether an object may have no mask at all.
    """
    images = {image["id"]: image for _, image in findings.usable("images", content["images"])}
    faults = []
    for position, annotation in findings.usable("annotations", content["annotations"]):
        if annotation["iscrowd"] or annotation["image_id"] not in images:
            continue
        image, segmentation = images[annotation["image_id"]], annotation.get("segmentation")
        kind = _fault(segmentation, (image["height"], image["width"]), may_lack)
        if kind:
            detail = "" if segmentation is None else shown(segmentation)
            faults.append(DataFault(kind, f"annotations[{position}] (id {annotation['id']}) of {image['file_name']}", detail))
    return faults


def _fault(segmentation: Any, image_size: tuple[int, int], may_lack: bool) -> str:
    if segmentation is None or segmentation in ([], [[]], {}, ""):
        return "" if may_lack else "object has no mask"
    if isinstance(segmentation, dict):
        return _fault_of_runs(segmentation, image_size)
    if not isinstance(segmentation, list):
        return "mask is neither a list of polygons nor run lengths"
    if any(_is_polygon(part) for part in segmentation):
        return ""
    if set(map(type, segmentation)) <= _NUMBER:
        return "polygon stands alone, not in a list of polygons"
    if all(isinstance(part, list) and set(map(type, part)) <= _NUMBER for part in segmentation):
        return "polygon has fewer than three points, or an odd count of numbers"
    return "polygon is not a list of finite numbers"


def _is_polygon(part: Any) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or not set(map(type, part)) <= _NUMBER:
        return False
    try:
        return math.isfinite(sum(part))
    except OverflowError:  # a whole number beyond 1e308
        return False


def _fault_of_runs(runs: dict[str, Any], image_size: tuple[int, int]) -> str:
    size, counts = runs.get("size"), runs.get("counts")
    if not isinstance(size, list) or len(size) != 2 or set(map(type, size)) != {int} or not isinstance(counts, (list, str)):
        return "run lengths are not an object with 'size' and 'counts'"
    if tuple(size) != image_size:
        return "'size' of run lengths is not height and width of the image"
    lengths = counts if isinstance(counts, list) else _decompressed(counts)
    if lengths is None or not set(map(type, lengths)) <= {int} or min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        return "run lengths do not fill the image"
    return ""


def _decompressed(counts: str) -> list[int] | None:
    """Run lengths from COCO's compressed text; None where it is none.

    A number is written in characters of six bits from 48 on, the lowest five bits first; the sixth says that more follow, the fifth of the
    last one is the sign. From the fourth on, numbers are differences to the one before the last.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths if not shift else None
