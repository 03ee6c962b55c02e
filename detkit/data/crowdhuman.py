"""CrowdHuman (Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd") read from its own odgt files.

An odgt file has one json object per line and image, with the boxes of heads (``hbox``), visible parts (``vbox``) and full bodies
(``fbox``). Full bodies are what the benchmark is about; they reach beyond the image where the image cuts them. Regions to ignore (groups,
statues, reflections) become crowd annotations, on which Detectron2's mapper does not train and which the evaluator does not count.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .checks import DataError
from .checks.errors import DataFault, describe_faults
from .checks.images import read_image_sizes
from .checks.json_file import require_regular_file

__all__ = ["CrowdImage", "load_crowdhuman", "prepare_crowdhuman", "read_odgt", "register_crowdhuman", "register_crowdhuman_splits"]

logger = logging.getLogger(__name__)

OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class CrowdImage:
    """The annotations of one image.

    Attributes:
        image_id: the image's file is ``<image_id>.jpg``.
        boxes: (x, y, width, height) of full bodies and ignore regions in pixels; not clipped.
        ignored: which of them are regions to ignore.
    """

    image_id: str
    boxes: tuple[tuple[float, float, float, float], ...]
    ignored: tuple[bool, ...]


def read_odgt(path: str | os.PathLike[str]) -> Iterator[CrowdImage]:
    """The images of an annotation file, one line after the other.

    What is not tagged "person", or is marked to be ignored, is a region to ignore, as in the official evaluation. Boxes may lie outside
    the image. One without width or height, or with a negative one, is a region to ignore too, since no person can be found there. That
    does no harm: nothing is trained on regions, and none of a pixel covers a detection. A warning counts them.

    Raises:
        DataError: the file is missing, or a line is no annotation; names the line and the box.
    """
    lines_of: dict[str, int] = {}
    num_empty = 0
    for number, line in _lines(Path(path)):
        image = _parse(line, f"{path}, line {number}")
        if image.image_id in lines_of:
            raise DataError(f"{path}, line {number}: the image {image.image_id} stands in line {lines_of[image.image_id]} already.")
        lines_of[image.image_id] = number
        num_empty += sum(_is_empty(box) for box in image.boxes)
        yield image
    if num_empty:
        logger.warning("%s: %d boxes have no width or height and become regions to ignore.", path, num_empty)


def load_crowdhuman(
    odgt_file: str | os.PathLike[str], image_root: str | os.PathLike[str], *, on_bad_image: OnBadImage = "error"
) -> list[dict[str, Any]]:
    """CrowdHuman as Detectron2's dataset dicts, with the class 0, "person".

    The annotations do not tell the size of an image, so that of every file is read from its header.

    Args:
        odgt_file: such as ``annotation_train.odgt``.
        image_root: the folder with ``<image_id>.jpg``.
        on_bad_image: ``"skip"`` leaves out images that cannot be used, and says so, instead of failing.

    Raises:
        DataError: annotations or images cannot be used.
    """
    images = list(read_odgt(odgt_file))
    files = [Path(image_root) / f"{image.image_id}.jpg" for image in images]
    sizes = read_image_sizes(files)
    _report_faults([size for size in sizes if isinstance(size, DataFault)], f"{odgt_file}, images in {image_root}", on_bad_image)
    usable = [(image, file, size) for image, file, size in zip(images, files, sizes, strict=True) if not isinstance(size, DataFault)]
    if not usable:
        raise DataError(f"{odgt_file}: there is no image to use; they should lie in {image_root}.")
    return [
        {
            "file_name": str(file),
            "image_id": image.image_id,
            "width": width,
            "height": height,
            "annotations": [
                {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": int(ignored)}
                for box, ignored in zip(image.boxes, image.ignored, strict=True)
            ],
        }
        for image, file, (width, height) in usable
    ]


def register_crowdhuman(
    name: str, odgt_file: str | os.PathLike[str], image_root: str | os.PathLike[str], *, on_bad_image: OnBadImage = "error"
) -> None:
    """Registers an odgt file and the folder of its images with Detectron2. Nothing is read before the data is asked for.

    A name that is registered already now means these files.
    """
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, partial(load_crowdhuman, odgt_file, image_root, on_bad_image=on_bad_image))
    MetadataCatalog.get(name).set(
        odgt_file=str(odgt_file),
        image_root=str(image_root),
        evaluator_type="crowdhuman",
        thing_classes=["person"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )


def register_crowdhuman_splits() -> None:
    """Registers ``crowdhuman_train`` and ``crowdhuman_val``: ``annotation_{train,val}.odgt`` and ``Images`` in
    ``$DETECTRON2_DATASETS/crowdhuman``, as the archives of the dataset unpack."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "crowdhuman"
    for split in ("train", "val"):
        register_crowdhuman(f"crowdhuman_{split}", root / f"annotation_{split}.odgt", root / "Images")


def prepare_crowdhuman(name: str, *, on_bad_image: OnBadImage, in_training: bool = False) -> None:
    """Reads a registered set once, so that what is wrong with it is said now; ``on_bad_image`` holds from now on.

    Raises:
        DataError: see :func:`load_crowdhuman`; or there is no person to train on.
    """
    metadata = MetadataCatalog.get(name)
    register_crowdhuman(name, metadata.odgt_file, metadata.image_root, on_bad_image=on_bad_image)
    records = DatasetCatalog.get(name)
    if in_training and all(annotation["iscrowd"] for record in records for annotation in record["annotations"]):
        raise DataError(f"{name}: {metadata.odgt_file} lists no person to train on, only regions to ignore. Name another file.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    number = 0
    try:
        require_regular_file(path)
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(
            f"The annotation file {path} does not exist. Correct its name (DATASETS.TRAIN_JSON, DATASETS.VAL_JSON), or for "
            "crowdhuman_train and crowdhuman_val the environment variable DETECTRON2_DATASETS."
        ) from None
    except OSError as error:
        raise DataError(f"The annotation file {path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not text in UTF-8 ({error}). Is this the odgt file?") from error


def _parse(line: str, where: str) -> CrowdImage:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits, and of lists in lists without end
        raise DataError(f"{where}: not json ({error}). Every line of an odgt file is a json object; is the file cut off?") from None
    if not isinstance(content, dict) or not isinstance(content.get("ID"), str) or not isinstance(content.get("gtboxes"), list):
        found = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(f"{where}: a CrowdHuman annotation has the name 'ID' and the list 'gtboxes'; here is {found or 'nothing'}.")
    entries = content["gtboxes"]
    boxes = tuple(_full_box(entry, f"{where} (image {content['ID']}), gtboxes[{i}]") for i, entry in enumerate(entries))
    ignored = tuple(_is_ignored(entry) or _is_empty(box) for entry, box in zip(entries, boxes, strict=True))
    return CrowdImage(content["ID"], boxes, ignored)


def _full_box(entry: Any, where: str) -> tuple[float, float, float, float]:
    box = entry.get("fbox") if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite_number(x) for x in box):
        raise DataError(f"{where}: 'fbox' should be four finite numbers (x, y, width, height), it is {box!r}. Correct the line.")
    x, y, width, height = box
    return x, y, width, height


def _is_empty(box: tuple[float, float, float, float]) -> bool:
    return min(box[2:]) <= 0


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max  # NaN is not


def _is_ignored(entry: dict[str, Any]) -> bool:
    extra = entry.get("extra")
    return entry.get("tag") != "person" or bool(isinstance(extra, dict) and extra.get("ignore", 0))


def _report_faults(faults: list[DataFault], where: str, on_bad_image: OnBadImage) -> None:
    if faults and on_bad_image == "error":
        raise DataError(
            f"CrowdHuman cannot be used as it is ({where}):\n{describe_faults(faults)}\nPut the images there, or set DATASETS.ON_BAD_IMAGE "
            '"skip" to leave these out.'
        )
    if faults:
        logger.warning("CrowdHuman: %d images are left out (%s):\n%s", len(faults), where, describe_faults(faults))
