"""Reads a COCO json and says what keeps it from being one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError, Fault, describe_faults

__all__ = ["read_coco_json"]

_REQUIRED_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco_json(json_file: str | Path) -> dict[str, Any]:
    """The content of a COCO annotation file, whose lists, keys and ids are sound.

    Raises:
        DataError: the file is missing, not json or not COCO; ids occur twice or refer to nothing; keypoints have a wrong length.
    """
    content = _read_json(Path(json_file))
    _require_sections(content, json_file)
    faults = [*_missing_keys(content)] or [*_repeated_ids(content), *_dangling_ids(content), *_wrong_keypoints(content)]
    if faults:
        raise DataError(f"{json_file} is not a sound COCO annotation file:\n{describe_faults(faults)}\nCorrect the file.")
    if not content["images"] or not content["categories"]:
        empty = "images" if not content["images"] else "categories"
        raise DataError(f"{json_file} lists no {empty}. Name another file or add them.")
    return content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"The annotation file {path} does not exist. Correct its name (DATASETS.TRAIN_JSON, DATASETS.VAL_JSON), or for Detectron2's "
            "own datasets the environment variable DETECTRON2_DATASETS."
        ) from None
    except OSError as error:
        raise DataError(f"The annotation file {path} cannot be read: {error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The annotation file {path} is not json: {error}. It should be a COCO annotation file.") from error


def _require_sections(content: Any, json_file: str | Path) -> None:
    if not isinstance(content, dict):
        raise DataError(
            f"{json_file} is not a COCO annotation file: its top level is a {type(content).__name__}, not an object with 'images', "
            "'annotations' and 'categories'. A file of detection results cannot be trained on."
        )
    for section in _REQUIRED_KEYS:
        if not isinstance(content.get(section), list):
            problem = "is not a list" if section in content else "is missing"
            raise DataError(f"{json_file} is not a COCO annotation file: '{section}' {problem}. It has: {', '.join(content) or 'nothing'}.")


def _missing_keys(content: dict[str, Any]) -> Iterator[Fault]:
    for section, keys in _REQUIRED_KEYS.items():
        for position, entry in enumerate(content[section]):
            if not isinstance(entry, dict):
                yield Fault(f"entry of '{section}' is not an object", f"{section}[{position}]", repr(entry)[:60])
                continue
            for key in keys:
                if key not in entry:
                    yield Fault(f"entry of '{section}' lacks '{key}'", f"{section}[{position}]")


def _repeated_ids(content: dict[str, Any]) -> Iterator[Fault]:
    for section in _REQUIRED_KEYS:
        counts = Counter(entry["id"] for entry in content[section])
        yield from (Fault(f"id occurs twice in '{section}'", f"id {key!r}", f"{count} times") for key, count in counts.items() if count > 1)


def _dangling_ids(content: dict[str, Any]) -> Iterator[Fault]:
    categories, images = ({entry["id"] for entry in content[section]} for section in ("categories", "images"))
    for annotation in content["annotations"]:
        if annotation["category_id"] not in categories:
            yield Fault("category id without a category", f"annotation {annotation['id']}", f"category_id {annotation['category_id']!r}")
        if annotation["image_id"] not in images:
            yield Fault("image id without an image", f"annotation {annotation['id']}", f"image_id {annotation['image_id']!r}")


def _wrong_keypoints(content: dict[str, Any]) -> Iterator[Fault]:
    """Where an annotation has keypoints they are as many as the category names; of classes without any, zeros for as many as others."""
    named = {category["id"]: len(category["keypoints"]) for category in content["categories"] if category.get("keypoints")}
    for annotation in content["annotations"]:
        if not annotation.get("keypoints"):
            continue
        length, expected = len(annotation["keypoints"]), 3 * named.get(annotation["category_id"], max(named.values(), default=0))
        if length != expected:
            yield Fault(
                "keypoints of a wrong length", f"annotation {annotation['id']}", f"{length} numbers, its category asks for {expected}"
            )
