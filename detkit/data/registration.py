"""Datasets by name: any COCO json with its image folder, and the embedded `shapes`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .checks import class_names, id_order, read_coco_json, release_annotations
from .keypoints import connection_rules, flip_map
from .records import coco_records
from .shapes import SHAPES_SETS, default_shapes_root, ensure_shapes, shapes_categories, shapes_paths

__all__ = ["find_image_folder", "is_published", "register_coco_folder", "register_shapes", "set_categories"]

#: what Detectron2 calls the sets of COCO
_PUBLISHED = re.compile(r"(keypoints_)?coco_20(14|17)_")


def register_coco_folder(name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> None:
    """Registers a COCO-format json and the folder of its images with Detectron2. Nothing is read before the data is asked for.

    Class names and, where a category has them, keypoint names, mirror pairs and skeleton enter the metadata when the data is loaded.
    A name that is registered already now means the new files.
    """
    _register(name, Path(json_file), Path(image_root))


def register_shapes() -> None:
    """Registers ``shapes_train``, ``shapes_val``, ``shapes_people_train`` and ``shapes_people_val``.

    They are made below ``$DETKIT_CACHE`` when they are first loaded.
    """
    for name, spec in SHAPES_SETS.items():
        root = default_shapes_root(name)
        for split in spec.splits:
            _register(f"{name}_{split}", *shapes_paths(root, split), prepare=partial(ensure_shapes, root, spec))
            set_categories(f"{name}_{split}", shapes_categories(spec.classes))


def _register(name: str, json_file: Path, image_root: Path, prepare: Callable[[], object] | None = None) -> None:
    def load() -> list[dict]:
        if prepare is not None:
            prepare()
        content = read_coco_json(json_file)
        set_categories(name, content["categories"])
        records = coco_records(content, image_root)
        release_annotations(json_file)
        return records

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=str(json_file), image_root=str(image_root), evaluator_type="coco")


def set_categories(name: str, categories: Sequence[dict[str, Any]]) -> None:
    """Enters the class names, ids and keypoints of a COCO json's ``categories`` into the metadata of a dataset.

    Categories of one name have their id behind it: ``cat (id 3)``.
    """
    metadata = MetadataCatalog.get(name)
    ordered = sorted(categories, key=id_order)
    metadata.set(
        thing_classes=class_names(categories),
        thing_dataset_id_to_contiguous_id={category["id"]: index for index, category in enumerate(ordered)},
    )
    with_keypoints = [category for category in ordered if category.get("keypoints")]
    if with_keypoints and not hasattr(metadata, "keypoint_names"):
        names = list(with_keypoints[0]["keypoints"])
        rules = connection_rules(names, with_keypoints[0].get("skeleton") or [])
        metadata.set(keypoint_names=names, keypoint_flip_map=flip_map(names), keypoint_connection_rules=rules)


def find_image_folder(json_file: str | os.PathLike[str], first_image: str) -> Path:
    """The folder of a json's images, where none is given.

    Args:
        json_file: such as ``data/annotations/train.json``, for which ``data/annotations``, ``data/annotations/Images``, ``data`` and
            ``data/train`` are tried.
        first_image: file name of one image of the json.

    Raises:
        FileNotFoundError: the image lies in none of them.
    """
    folder = Path(json_file).parent
    candidates = [folder, folder / "Images", folder.parent, folder.parent / Path(json_file).stem]
    for candidate in candidates:
        if os.path.isfile(candidate / first_image):  # of a name that no file can have, too
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"The images of {json_file} (the first is {first_image}) lie in none of {tried}. Name their folder in DATASETS.TRAIN_IMAGES or "
        "DATASETS.VAL_IMAGES."
    )


def is_published(name: str) -> bool:
    """Whether a dataset is COCO itself: its few empty boxes and its limit of 100 detections belong to the official evaluation."""
    return _PUBLISHED.match(name) is not None and not MetadataCatalog.get(name).get("own_files", False)
