"""The files of `shapes` and `shapes_people`: COCO json and JPEG images, made on first use from a seed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from iopath.common.file_io import file_lock

from detkit.config_files import cache_folder

from ..keypoints import COCO_PERSON_KEYPOINTS, COCO_PERSON_SKELETON
from .annotations import annotate_scene
from .outlines import OUTLINES
from .scene import render_scene

__all__ = [
    "SHAPES_CLASSES",
    "SHAPES_SETS",
    "SHAPES_VERSION",
    "ShapesSpec",
    "default_shapes_root",
    "ensure_shapes",
    "shapes_categories",
    "shapes_paths",
]

logger = logging.getLogger(__name__)

#: raised whenever the pictures or annotations change; part of the folder's name
SHAPES_VERSION = "2"

#: the names of the classes, in the order of the category ids
SHAPES_CLASSES = tuple(OUTLINES)


@dataclass(frozen=True)
class ShapesSpec:
    """How many pictures of which seed, and what is on them.

    Every picture has its own random stream: picture i does not depend on how many there are.

    Attributes:
        classes: names, of :data:`SHAPES_CLASSES`; every object is of each of them with the same probability.
        max_objects: of a picture, at least 1.
    """

    num_train: int = 400
    num_val: int = 100
    seed: int = 0
    classes: tuple[str, ...] = SHAPES_CLASSES
    max_objects: int = 7

    @property
    def splits(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val}


#: the datasets by name: all classes; and persons alone, enough of them to learn how limbs bend
SHAPES_SETS = {"shapes": ShapesSpec(), "shapes_people": ShapesSpec(num_train=1000, classes=("person",), max_objects=4)}


def default_shapes_root(name: str = "shapes") -> Path:
    """``$DETKIT_CACHE/<name>-<version>``, by default below ``~/.cache/detkit``."""
    return cache_folder() / f"{name}-{SHAPES_VERSION}"


def shapes_paths(root: str | os.PathLike[str], split: str) -> tuple[Path, Path]:
    """The json file and the image folder of ``train`` or ``val``."""
    return Path(root, "annotations", f"{split}.json"), Path(root, split)


def ensure_shapes(root: str | os.PathLike[str] | None = None, spec: ShapesSpec | None = None) -> Path:
    """Makes the dataset unless it is there. Safe to call from several processes at once: one makes it, the others wait.

    Args:
        root: folder of the dataset; None: :func:`default_shapes_root`.
        spec: None: `shapes`.

    Returns:
        the folder. It never exists half filled: it is written beside and renamed.

    Raises:
        OSError: the folder cannot be written; names it and the remedy.
    """
    root = Path(root or default_shapes_root())
    if root.is_dir():
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(root)):
            if not root.is_dir():
                _write_and_rename(root, spec or ShapesSpec())
    except OSError as error:
        raise OSError(
            f"Cannot write generated pictures to {root}: {error}. Set the environment variable DETKIT_CACHE to a writable folder."
        ) from error
    return root


def _write_and_rename(root: Path, spec: ShapesSpec) -> None:
    logger.info("Making generated pictures in %s (%d + %d, once).", root, spec.num_train, spec.num_val)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{root.name}.", dir=root.parent))
    try:
        for split, count in spec.splits.items():
            _write_split(unfinished, split, count, spec)
        unfinished.chmod(0o755)
        os.rename(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_split(root: Path, split: str, count: int, spec: ShapesSpec) -> None:
    json_file, image_root = shapes_paths(root, split)
    json_file.parent.mkdir(exist_ok=True)
    image_root.mkdir()
    stream = {"train": 0, "val": 1}[split]
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        rng = np.random.default_rng([spec.seed, stream, index])
        width, height = _image_size(rng)
        scene = render_scene(rng, _labels(rng, spec), height, width)
        name = f"{index:06d}.jpg"
        cv2.imwrite(str(image_root / name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for annotation in annotate_scene(scene):
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **annotation})
    info = {"description": f"shapes {SHAPES_VERSION}, {split}, seed {spec.seed}: generated pictures", "version": SHAPES_VERSION}
    data = {"info": info, "images": images, "annotations": annotations, "categories": shapes_categories(spec.classes)}
    json_file.write_text(json.dumps(data))


def _image_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: about 256 x 320 in either orientation."""
    long, short = int(rng.integers(288, 337)), int(rng.integers(240, 273))
    return (long, short) if rng.random() < 0.7 else (short, long)


def _labels(rng: np.random.Generator, spec: ShapesSpec) -> list[int]:
    """Classes of a picture's objects, as indices of SHAPES_CLASSES; one picture in thirty is empty."""
    if rng.random() < 1 / 30:
        return []
    chosen = rng.integers(0, len(spec.classes), size=int(rng.integers(1, spec.max_objects + 1)))
    return [SHAPES_CLASSES.index(spec.classes[i]) for i in chosen]


def shapes_categories(classes: Sequence[str] = SHAPES_CLASSES) -> list[dict]:
    """The ``categories`` of the COCO json, with the ids they have among all classes; the person has keypoints."""
    categories: list[dict] = [{"id": SHAPES_CLASSES.index(name) + 1, "name": name, "supercategory": "shape"} for name in classes]
    for category in categories:
        if category["name"] == "person":
            category |= {"keypoints": list(COCO_PERSON_KEYPOINTS), "skeleton": COCO_PERSON_SKELETON}
    return categories
