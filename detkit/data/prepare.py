"""From config to datasets that can be trained and evaluated on: registration, checks, number of classes."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import logging
from pathlib import Path
from typing import Literal

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from detkit.config import ConfigError, Section, check_config, get_cfg
from detkit.storage import is_on_storage, local_copy

from .checks import (
    CheckedData,
    DataError,
    check_annotations_of_tasks,
    check_coco_folder,
    check_training_objects,
    most_objects,
    open_annotations,
    read_coco_json,
    training_objects,
)
from .copies import forget_copies, hold_copy, write_copies
from .crowdhuman import prepare_crowdhuman, read_odgt, register_crowdhuman
from .keypoints import COCO_PERSON_KEYPOINTS
from .registration import find_image_folder, is_published, register_coco_folder, set_categories
from .shapes import SHAPES_SETS, default_shapes_root, ensure_shapes

__all__ = ["check_data_keys", "prepare_datasets"]

logger = logging.getLogger(__name__)

#: images of a file that are looked for, to find their folder
_TRIED_IMAGES = 20

# where Detectron2's own meta-architectures keep their number of classes, below MODEL
_CLASS_SECTIONS = {"GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "RetinaNet": "RETINANET", "SparseRCNN": "SPARSE_RCNN"}


def prepare_datasets(cfg: CfgNode, *, eval_only: bool = False, write: bool = True) -> None:
    """Makes the datasets of a config usable, and the config agree with them. Call it once per process, before the config is frozen.

    Own files (``DATASETS.TRAIN_JSON``, ``DATASETS.VAL_JSON``) are registered and named in ``DATASETS.TRAIN`` and ``DATASETS.TEST``;
    `shapes` is made if it is asked for; every dataset in COCO format is checked; the model's number of classes is inferred or checked.

    Args:
        cfg: changed in place: ``DATASETS.TRAIN``, ``TEST``, ``CLASS_NAMES`` and ``KEYPOINT_NAMES``, and the ``NUM_CLASSES`` of the
            model. Repaired copies of annotation files, where the config allows them, are written to ``<OUTPUT_DIR>/datasets``.
        eval_only: leave the training data alone.
        write: False: write these copies when :func:`detkit.data.write_copies` is called, as a training does when it begins. In this
            process they can be read before.

    Raises:
        ConfigError: a key has an impossible value; a dataset is not registered; the model has fewer classes than the data.
        DataError: the data cannot be used.
    """
    check_data_keys(cfg)
    forget_copies()
    _register_own_files(cfg, eval_only)
    train = () if eval_only else cfg.DATASETS.TRAIN
    names = list(dict.fromkeys([*train, *cfg.DATASETS.TEST]))
    checked = {}
    for name in names:
        _require_registered(name)
        checked[name] = _prepare(name, cfg, in_training=name in train)
    _agree_on_classes(cfg, names)
    _check_objects(cfg, [each for name in train if (each := checked[name]) is not None])
    for name in cfg.DATASETS.TEST:
        _check_evaluation(cfg, name, checked[name])
    if write:
        write_copies()


def check_data_keys(cfg: CfgNode) -> None:
    """Checks all keys by the table of their ranges, and what those of datasets, loader and input images have to do with each other.

    Raises:
        ConfigError: a value that cannot be, or values that contradict each other.
    """
    check_config(cfg)
    for split in ("TRAIN", "VAL"):
        if cfg.DATASETS[f"{split}_IMAGES"] and not cfg.DATASETS[f"{split}_JSON"]:
            raise ConfigError(f"DATASETS.{split}_IMAGES is set, but not the annotation file: set DATASETS.{split}_JSON too.")
    images = Section(cfg, "INPUT")
    sizes = len(images.MIN_SIZE_TRAIN)
    if images.MIN_SIZE_TRAIN_SAMPLING == "range" and sizes != 2:
        raise images.refusal("MIN_SIZE_TRAIN", "the least and the greatest size for 'range'")
    if images.CROP.ENABLED:
        images.check({"CROP.SIZE": "(0, 1]" if images.CROP.TYPE.startswith("relative") else "[1, inf)"})


def _register_own_files(cfg: CfgNode, eval_only: bool) -> None:
    if not (cfg.DATASETS.TRAIN_JSON or cfg.DATASETS.VAL_JSON):
        return
    if cfg.DATASETS.TRAIN_JSON:
        cfg.DATASETS.TRAIN = () if eval_only else (_register_split(cfg, "TRAIN", f"{cfg.DATASETS.NAME}_train"),)
        cfg.DATASETS.TEST = ()  # those of the config file belong to other data
    if cfg.DATASETS.VAL_JSON:
        cfg.DATASETS.TEST = (_register_split(cfg, "VAL", f"{cfg.DATASETS.NAME}_val"),)
    elif not cfg.DATASETS.TEST:
        logger.info("DATASETS.VAL_JSON is not set: the model will not be evaluated.")


def _register_split(cfg: CfgNode, split: str, name: str) -> str:
    json_file = Path(_local(cfg.DATASETS[f"{split}_JSON"])).expanduser()
    image_root: str | Path = _local(cfg.DATASETS[f"{split}_IMAGES"])
    if image_root and not Path(image_root).expanduser().is_dir():
        raise DataError(f"DATASETS.{split}_IMAGES: there is no folder {image_root}. Name the folder of the images of {json_file}.")
    is_odgt = json_file.suffix == ".odgt"
    if not image_root:
        image_root = _found_image_folder(json_file, _first_odgt_images(json_file) if is_odgt else _first_images(json_file))
    register = register_crowdhuman if is_odgt else register_coco_folder
    register(name, json_file, Path(image_root).expanduser())
    MetadataCatalog.get(name).set(own_files=True)
    return name


def _local(path: str) -> str:
    return str(local_copy(path)) if is_on_storage(path) else path


def _found_image_folder(json_file: Path, names: list[str]) -> Path:
    """The folder in which one of these images lies, the first of which may be missing.

    Raises:
        FileNotFoundError: see :func:`find_image_folder`.
    """
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            return find_image_folder(json_file, name)
    return find_image_folder(json_file, names[0])


def _first_images(json_file: Path) -> list[str]:
    opened = open_annotations(json_file)
    names = [image["file_name"] for _, image in opened.findings.usable("images", opened.content["images"])]
    if not names:
        read_coco_json(json_file)  # says what is wrong with them
        raise DataError(f"{json_file} lists no images. Name another file or add them.")
    return names[:_TRIED_IMAGES]


def _first_odgt_images(odgt_file: Path) -> list[str]:
    names = [f"{image.image_id}.jpg" for image in itertools.islice(read_odgt(odgt_file), _TRIED_IMAGES)]
    if not names:
        raise DataError(f"{odgt_file} lists no images. Name another file.")
    return names


def _require_registered(name: str) -> None:
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, list(DatasetCatalog), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"DATASETS.TRAIN or DATASETS.TEST names '{name}', which is not registered.{hint} For own dataset DATASETS.TRAIN_JSON and "
            "DATASETS.VAL_JSON."
        )


def _prepare(name: str, cfg: CfgNode, *, in_training: bool) -> CheckedData | None:
    """Makes, checks and where allowed repairs one dataset. Those that are neither COCO folder nor CrowdHuman are left as they are."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "crowdhuman":
        prepare_crowdhuman(name, on_bad_image=cfg.DATASETS.ON_BAD_IMAGE, in_training=in_training)
        return None
    if not hasattr(metadata, "json_file") or getattr(metadata, "evaluator_type", None) not in ("coco", None):
        return None
    for generated, spec in SHAPES_SETS.items():
        root = default_shapes_root(generated)
        if Path(metadata.json_file).is_relative_to(root):
            ensure_shapes(root, spec)
            return None  # made here, and renamed into place when it was complete
    published = is_published(name)
    checked = check_coco_folder(
        name,
        metadata.json_file,
        metadata.image_root,
        on_bad_image=cfg.DATASETS.ON_BAD_IMAGE,
        on_bad_box="keep" if published else cfg.DATASETS.ON_BAD_BOX,
        decode_images=cfg.DATASETS.CHECK_PIXELS,
        needs_annotations=in_training,
        deep_images=cfg.INPUT.DEEP_IMAGES,
        resizing=_resizing(cfg, name, in_training),
        masks="unused" if published else _use_of_masks(cfg),
    )
    _require_usable_masks(name, checked, cfg)
    if checked.changed:
        _register_anew(name, hold_copy(name, checked.content, cfg.OUTPUT_DIR))
    elif DatasetCatalog[name].__module__ == load_coco_json.__module__:  # it would parse the file again
        _register_anew(name, metadata.json_file)
    if not hasattr(MetadataCatalog.get(name), "thing_classes"):
        set_categories(name, checked.content["categories"])
    return checked


def _resizing(cfg: CfgNode, name: str, in_training: bool) -> list[tuple[int, int]]:
    """To which sizes the images of a dataset are resized: the smallest shorter side, and the most that the longer one may have."""
    sizes = [(min(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)] if in_training else []
    return [*sizes, (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)] if name in cfg.DATASETS.TEST else sizes


def _use_of_masks(cfg: CfgNode) -> Literal["unused", "used", "needed"]:
    if cfg.MODEL.META_ARCHITECTURE == "LSNet":  # an object may lack a mask
        return "used" if "segm" in cfg.MODEL.LSNET.TASKS else "unused"
    return "needed" if cfg.MODEL.MASK_ON else "unused"


def _learns_keypoints(cfg: CfgNode) -> bool:
    return "pose" in cfg.MODEL.LSNET.TASKS if cfg.MODEL.META_ARCHITECTURE == "LSNet" else cfg.MODEL.KEYPOINT_ON


def _check_objects(cfg: CfgNode, sets: list[CheckedData]) -> None:
    if not sets:
        return
    several = cfg.MODEL.META_ARCHITECTURE == "LSNet" and len(cfg.MODEL.LSNET.TASKS) > 1
    keypoints = _learns_keypoints(cfg) and not several
    objects = [training_objects(each.name, each.json_file, each.content, each.num_in_file, needs_keypoints=keypoints) for each in sets]
    resizing = (max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    check_training_objects(objects, resizing=resizing, finest_stride=_finest_stride(cfg))
    if several:
        check_annotations_of_tasks(sets, cfg.MODEL.LSNET.TASKS, key="MODEL.LSNET.TASKS")


def _finest_stride(cfg: CfgNode) -> int:
    """Of the levels that the detector looks at, which are called after the exponent: 8 pixels for "p3", which is also the guess."""
    section = _class_section(cfg)
    node = cfg.MODEL[section] if section else {}
    levels = [int(name[1:]) for name in node.get("IN_FEATURES", ()) if name[1:].isdigit()]
    return 2 ** min(levels, default=3)


def _check_evaluation(cfg: CfgNode, name: str, checked: CheckedData | None) -> None:
    """What would make an evaluation fail, or say less than it seems to."""
    if checked is None:
        return
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or len(COCO_PERSON_KEYPOINTS)
    named = {len(category["keypoints"]) for category in checked.content["categories"] if category.get("keypoints")}
    if _learns_keypoints(cfg) and named - {sigmas}:
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS gives {sigmas} numbers (COCO's are 17), but the objects of {name} have {min(named - {sigmas})} "
            "keypoints. Set it to one number per keypoint; COCO's lie between 0.025 for eyes and 0.107 for hips."
        )
    most = most_objects(checked.content.get("annotations", ()))
    if most > cfg.TEST.DETECTIONS_PER_IMAGE and not is_published(name):
        logger.warning(
            "%s: an image has %d objects, but the model gives at most %d detections (TEST.DETECTIONS_PER_IMAGE), so that not all can be "
            "found. Set it to %d or more.",
            name,
            most,
            cfg.TEST.DETECTIONS_PER_IMAGE,
            most,
        )


def _require_usable_masks(name: str, checked: CheckedData, cfg: CfgNode) -> None:
    if not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "polygon":
        return
    encoded = [a["id"] for a in checked.content["annotations"] if isinstance(a.get("segmentation"), dict) and not a["iscrowd"]]
    if encoded:
        raise ConfigError(
            f"{name}: the masks of {len(encoded)} annotations (the first is {encoded[0]}) are run-length encoded, but INPUT.MASK_FORMAT is "
            "'polygon'. Set INPUT.MASK_FORMAT bitmask."
        )


def _register_anew(name: str, json_file: str | Path) -> None:
    """From now on ``name`` means this file, read once, for training and evaluation alike."""
    metadata = MetadataCatalog.get(name).as_dict()
    register_coco_folder(name, json_file, metadata["image_root"])
    kept = {key: value for key, value in metadata.items() if key not in ("name", "json_file", "image_root", "evaluator_type")}
    MetadataCatalog.get(name).set(**kept)


def _agree_on_classes(cfg: CfgNode, names: list[str]) -> None:
    known = {name: list(MetadataCatalog.get(name).get("thing_classes", [])) for name in names}
    known = {name: classes for name, classes in known.items() if classes}
    if not known:
        return
    first, classes = next(iter(known.items()))
    for name, others in known.items():
        if others != classes:
            raise DataError(
                f"{first} and {name} have different classes: {_shortened(classes)} and {_shortened(others)}. Give both the same "
                "categories, in the same order of their ids."
            )
    _set_or_check_num_classes(cfg, len(classes), f"{first} ({_shortened(classes)})")
    cfg.DATASETS.CLASS_NAMES = classes
    if _learns_keypoints(cfg):
        cfg.DATASETS.KEYPOINT_NAMES = list(MetadataCatalog.get(first).get("keypoint_names", []))


def _shortened(classes: list[str]) -> str:
    shown = ", ".join(classes[:6])
    return shown if len(classes) <= 6 else f"{shown}, ... ({len(classes)} in all)"


def _set_or_check_num_classes(cfg: CfgNode, count: int, data: str) -> None:
    section = _class_section(cfg)
    if section is None:
        return
    node, key = cfg.MODEL[section], f"MODEL.{section}.NUM_CLASSES"
    if cfg.DATASETS.INFER_NUM_CLASSES and node.NUM_CLASSES == get_cfg().MODEL[section].NUM_CLASSES != count:
        logger.info("%s is set to %d, the number of classes of %s.", key, count, data)
        node.NUM_CLASSES = count
    elif node.NUM_CLASSES < count:
        raise ConfigError(
            f"The model has {node.NUM_CLASSES} classes ({key}), fewer than the {count} of {data}. Set {key} {count}, or leave the key out "
            "and DATASETS.INFER_NUM_CLASSES True, and it is inferred."
        )
    elif node.NUM_CLASSES > count:
        logger.warning("The model has %d classes (%s), the data %d: the last ones stay unused. %s.", node.NUM_CLASSES, key, count, data)


def _class_section(cfg: CfgNode) -> str | None:
    """The node below MODEL that has the number of classes of the meta-architecture; None for one that has none."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    for section in (_CLASS_SECTIONS.get(architecture), architecture, architecture.upper()):
        if section in cfg.MODEL and "NUM_CLASSES" in cfg.MODEL[section]:
            return section
    return None
