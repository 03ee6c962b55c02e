"""The section of the page that shows what a run's assigner picks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

from detkit.checkpoint.files import read_checkpoint
from detkit.checkpoint.writer import CheckpointFolder
from detkit.config import usable_device
from detkit.data import DataError
from detkit.dense import DenseDetector
from detkit.visualization import AssignmentPicture, assignment_pictures
from detkit.visualization.pictures import encoded
from detkit.visualization.style import CATEGORICAL

from .gallery import PicturePair, evenly_spread
from .sections import Missing

__all__ = ["AssignerSection", "assigner_section"]

NUM_IMAGES = 4


@dataclass(frozen=True)
class AssignerSection:
    """What the assigner picks on some images.

    Args:
        assigner: its class name.
        dataset: where the images are from.
        levels: name and color of each level in the right pictures.
        pairs: positives colored by object (left) and by level (right).
    """

    assigner: str
    dataset: str
    levels: list[tuple[str, str]]
    pairs: list[PicturePair]


def assigner_section(cfg: CfgNode, folder: Path, model: nn.Module | None) -> AssignerSection | Missing:
    """Runs the model's assigner on images of the first training set.

    Args:
        model: the run's model; None: built from ``cfg``, with the weights of the last checkpoint in ``folder`` if there is one.
    """
    if not cfg.DATASETS.TRAIN:
        return Missing("DATASETS.TRAIN names no dataset to draw images from.")
    dataset = cfg.DATASETS.TRAIN[0]
    if dataset not in DatasetCatalog.list():
        return Missing(f"The dataset {dataset} is not registered here.")
    try:
        records = [record for record in DatasetCatalog.get(dataset) if any(not a.get("iscrowd") for a in record.get("annotations", ()))]
    except FileNotFoundError as error:
        return Missing(f"The dataset {dataset} is not on this machine ({error}).")
    except DataError as error:
        return Missing(f"The dataset {dataset} cannot be used: {error}")
    if not records:
        return Missing(f"{dataset} has no image with objects.")
    try:
        model = model or _load_model(cfg, folder)
    except Exception as error:  # of a config that somebody has cut, building a detector can raise nearly anything
        return Missing(f"The detector of the run cannot be loaded: {type(error).__name__}: {error}")
    if not isinstance(model, DenseDetector):
        return Missing(f"{type(model).__name__} has no grid of priors that an assigner could pick from.")
    inputs = _as_training_inputs(cfg, evenly_spread(records, NUM_IMAGES))
    pictures = [picture for each in inputs for picture in assignment_pictures(model, [each], channels=cfg.INPUT.FORMAT)]
    return AssignerSection(
        assigner=type(model.assigner).__name__,
        dataset=dataset,
        levels=[(name, CATEGORICAL[i % len(CATEGORICAL)]) for i, name in enumerate(model.head_in_features)],
        pairs=[_pair(Path(each["file_name"]).name, picture) for each, picture in zip(inputs, pictures, strict=True)],
    )


def _load_model(cfg: CfgNode, folder: Path) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
    checkpoint = CheckpointFolder(folder).load_last(read_checkpoint)
    if checkpoint is not None:
        cfg.MODEL.WEIGHTS = str(checkpoint[0])  # so that the backbone does not look for a start of its own
    model = build_model(cfg)
    if checkpoint is not None:
        model.load_state_dict(checkpoint[1]["model"])
    return model


def _as_training_inputs(cfg: CfgNode, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images with their objects, in the size of the test images."""
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    mapper = DatasetMapper(is_train=True, augmentations=[resize], image_format=cfg.INPUT.FORMAT)
    return [mapper(record) for record in records]


def _pair(name: str, picture: AssignmentPicture) -> PicturePair:
    counts = picture.per_object
    levels = ", ".join(f"{level} {count}" for level, count in zip(picture.level_names, picture.per_level, strict=True) if count)
    caption = f"{sum(counts)} positives ({levels or 'none'}) for {len(counts)} objects, {min(counts)} to {max(counts)} each"
    if 0 in counts:
        caption += f" · {counts.count(0)} without any"
    return PicturePair(
        title=name,
        caption=caption,
        left=encoded(picture.by_object, f"Positive locations on {name}, colored by object. {caption}."),
        right=encoded(picture.by_level, f"Positive locations on {name}, colored by pyramid level. {caption}."),
    )
