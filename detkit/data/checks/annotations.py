"""COCO annotation files: parsed and checked once per process, and shared by all who need them."""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError, DataFault, describe_faults
from .json_file import collector_paused, read_json
from .keypoints import check_keypoints
from .schema import Findings, check_fields, shown

__all__ = ["AnnotationFile", "class_names", "id_order", "open_annotations", "read_coco_json", "release_annotations", "share_annotations"]

logger = logging.getLogger(__name__)

#: files up to this many bytes stay in memory, this many of them; larger ones only until a dataset was made of them
_KEPT_BYTES, _KEPT_FILES = 64 << 20, 8
#: reading a file of more bytes takes seconds, which is said
_LARGE_BYTES = 32 << 20
_SECTIONS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class AnnotationFile:
    """A parsed COCO file. Its content is shared: do not change it.

    Attributes:
        path: where it was read.
        content: with what could be put right put right.
        repaired: whether ``content`` differs from the file.
        findings: what is wrong.
    """

    path: Path
    content: dict[str, Any]
    repaired: bool = False
    findings: Findings = field(default_factory=Findings)


_KEPT: OrderedDict[Path, tuple[tuple[int, int] | None, AnnotationFile]] = OrderedDict()


def read_coco_json(json_file: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a COCO annotation file in which every field that is read has its type and range, and ids refer to what there is.

    A file is parsed again only when it has changed. Do not change the content: others read it too.

    Raises:
        DataError: the file is missing, not json or not COCO; one error with all that is wrong.
    """
    opened = open_annotations(json_file)
    if opened.findings.faults:
        raise DataError(f"{json_file} is not a sound COCO annotation file:\n{describe_faults(opened.findings.faults)}\nCorrect the file.")
    return opened.content


def open_annotations(json_file: str | os.PathLike[str]) -> AnnotationFile:
    """A COCO annotation file, with all that is wrong with its fields and ids.

    Raises:
        DataError: the file is missing, not json, or has no lists of images and categories.
    """
    path = Path(json_file).absolute()
    kept = _KEPT.get(path)
    if kept is not None and kept[0] == _stamp(path):
        _KEPT.move_to_end(path)
        return kept[1]
    stamp = _stamp(path)
    if stamp is not None and stamp[1] > _LARGE_BYTES:
        logger.info("Reading %s (%d MB).", json_file, stamp[1] >> 20)
    content = read_json(json_file)
    _require_sections(content, json_file)
    with collector_paused():
        findings = _check(content)
    repaired = bool(findings.repairs) or "info" not in content
    content.setdefault("info", {})  # pycocotools asks for it
    opened = AnnotationFile(path, content, repaired, findings)
    if findings.repairs and not findings.faults:
        done = ", ".join(f"{what} ({count})" for what, count in sorted(findings.repairs.items()))
        logger.info("%s: put right: %s.", json_file, done)
    for note in _repeated_names(content):
        logger.warning("%s: %s", json_file, note)
    share_annotations(opened)
    return opened


def share_annotations(opened: AnnotationFile) -> None:
    """Whoever reads the file from now on gets this content."""
    _KEPT[opened.path] = _stamp(opened.path), opened
    written = [path for path, (stamp, _) in _KEPT.items() if stamp is not None]  # the others could not be read again
    for path in written[: max(len(_KEPT) - _KEPT_FILES, 0)]:
        del _KEPT[path]


def release_annotations(json_file: str | os.PathLike[str]) -> None:
    """Forgets a large file, whose content takes gigabytes, now that a dataset was made of it."""
    path = Path(json_file).absolute()
    stamp = _stamp(path)
    if stamp is not None and stamp[1] > _KEPT_BYTES:
        _KEPT.pop(path, None)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


# what is checked ------------------------------------------------------------------------------------------------------------------------


def _require_sections(content: Any, json_file: str | os.PathLike[str]) -> None:
    if not isinstance(content, dict):
        raise DataError(
            f"{json_file} is not a COCO annotation file: its top level is a {type(content).__name__}, not a json object with 'images', "
            "'annotations' and 'categories'. A file of detection results cannot be trained on."
        )
    for section in _SECTIONS:
        if section == "annotations" and section not in content:
            continue  # a test set, whose annotations are not public
        if not isinstance(content.get(section), list):
            problem = "is not a list" if section in content else "is missing"
            raise DataError(f"{json_file} is not a COCO annotation file: '{section}' {problem}. It has: {', '.join(content) or 'nothing'}.")


def _check(content: dict[str, Any]) -> Findings:
    findings = Findings()
    for section in _SECTIONS:
        check_fields(section, content.get(section, []), findings)
    for section in ("images", "categories"):
        _check_repeated_ids(section, content[section], findings)
    _check_references(content, findings)
    _rename_repeated_annotations(content, findings)
    check_keypoints(content, findings)
    return findings


def _check_repeated_ids(section: str, entries: list[dict[str, Any]], findings: Findings) -> None:
    counts = Counter(entry["id"] for _, entry in findings.usable(section, entries))
    if len(counts) < sum(counts.values()):
        findings.faults += [
            DataFault(f"id occurs twice in '{section}'", f"id {shown(key)}", f"{count} times") for key, count in counts.items() if count > 1
        ]


def _check_references(content: dict[str, Any], findings: Findings) -> None:
    annotations = content.get("annotations", [])
    for section, key, kind in (
        ("categories", "category_id", "category id without a category"),
        ("images", "image_id", "image id without an image"),
    ):
        known = {entry["id"] for entry in content[section] if isinstance(entry, dict) and isinstance(entry.get("id"), (int, float, str))}
        if not findings.unusable and {annotation[key] for annotation in annotations} <= known:
            continue
        for position, annotation in list(findings.usable("annotations", annotations)):
            if annotation[key] not in known:
                detail = f"{key} {shown(annotation[key])}{_other_type(annotation[key], known)}"
                findings.add("annotations", position, DataFault(kind, f"annotation {annotation['id']}", detail))


def _other_type(name: Any, known: set[Any]) -> str:
    """A hint where a number was written as text, or the other way round."""
    other = str(name) if not isinstance(name, str) else next((key for key in known if not isinstance(key, str) and str(key) == name), None)
    return f", but {shown(other)} is there" if other in known else ""


def _rename_repeated_annotations(content: dict[str, Any], findings: Findings) -> None:
    """Nothing refers to an annotation, so its id may occur twice, as in files that were merged; the later one gets a name of its own.

    An annotation that is repeated with all it says is left out.
    """
    annotations = content.get("annotations", [])
    usable = [annotation for _, annotation in findings.usable("annotations", annotations)]
    taken = {annotation["id"] for annotation in usable}
    if len(taken) == len(usable):
        return
    first: dict[Any, list[dict[str, Any]]] = {}
    copies = set()
    for annotation in usable:
        earlier = first.setdefault(annotation["id"], [])
        if annotation in earlier:
            copies.add(id(annotation))
            continue
        earlier.append(annotation)
    for name, same in first.items():
        for number, annotation in enumerate(same[1:], start=2):
            while f"{name} ({number})" in taken:
                number += 1
            annotation["id"] = f"{name} ({number})"
            taken.add(annotation["id"])
            findings.repairs["annotation id repeated, the later ones renamed"] += 1
    if copies and not findings.faults:
        content["annotations"] = [annotation for annotation in annotations if id(annotation) not in copies]
        findings.repairs["annotation repeated with the same id, left out"] += len(copies)


# names ----------------------------------------------------------------------------------------------------------------------------------


def id_order(entry: dict[str, Any]) -> tuple[bool, Any]:
    """Sorts entries by their ids: numbers before texts."""
    return isinstance(entry["id"], str), entry["id"]


def class_names(categories: Sequence[dict[str, Any]]) -> list[str]:
    """The names of categories, in the order of their ids; where several have the same, with the id: "cat (id 3)"."""
    ordered = sorted(categories, key=id_order)
    counts = Counter(category["name"] for category in ordered)
    return [category["name"] if counts[category["name"]] == 1 else f"{category['name']} (id {category['id']})" for category in ordered]


def _repeated_names(content: dict[str, Any]) -> list[str]:
    names: dict[str, list[str]] = {}
    for category in content["categories"]:
        if isinstance(category, dict) and isinstance(category.get("name"), str):
            names.setdefault(category["name"], []).append(shown(category.get("id")))
    return [
        f"{len(ids)} categories are named '{name}' (ids {', '.join(ids)}). They are told apart by their ids."
        for name, ids in names.items()
        if len(ids) > 1
    ]
