"""From the words of a command line to something that predicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.structures.masks import polygons_to_bitmask

from detkit.data import connection_rules
from detkit.data.keypoints import COCO_PERSON_KEYPOINTS
from detkit.onnx_predictor import OnnxDetections, OnnxPredictor
from detkit.predictor import NamedInstances, Predictor
from detkit.predictor.named import config_and_weights
from detkit.sharing import SHARED_WEIGHTS

from .sources import DemoError

__all__ = ["Predict", "load_model"]

#: from a list of BGR arrays to the detections on each
Predict = Callable[[Sequence[np.ndarray]], Sequence[NamedInstances]]


def load_model(name: str | None, weights: str | None, opts: Sequence[str] = (), *, batch_size: int = 1) -> Predict:
    """A predictor of any kind.

    Args:
        name: of the model zoo; a config file, or its name below ``configs/``; the folder of a run or of a shared model; None: the weights
            say it, which are an exported file then.
        weights: a file of weights or an address; a file ending in .onnx is run by onnxruntime, whatever else is named; None: those of
            the name.
        opts: overrides of config keys, as pairs of words.

    Raises:
        DemoError: too little is named, or what is named contradicts itself; and what :class:`detkit.predictor.Predictor` raises.
    """
    if (weights or name or "").endswith(".onnx"):
        if opts:
            raise DemoError("--opts: an exported file has no config keys any more. Set them when it is exported.")
        return _OnnxModel(weights or name or "")
    if name is None:
        raise DemoError("--config-file: name a model: a name of the model zoo, a config file, or the folder of a run.")
    predictor = _predictor(name, weights, opts)
    return lambda images: predictor(list(images), batch_size=batch_size)


def _predictor(name: str, weights: str | None, opts: Sequence[str]) -> Predictor:
    folder = Path(name)
    if not folder.is_dir():
        cfg, own_weights = config_and_weights(name, weights)
        if not opts:
            return Predictor(cfg, own_weights)
        cfg = cfg.clone()
        cfg.merge_from_list(list(opts))
        return Predictor(cfg, weights or cfg.MODEL.WEIGHTS or own_weights)
    if opts:
        raise DemoError(f"--opts: '{name}' is a folder. To override keys, name its config.yaml and its --weights.")
    if (folder / SHARED_WEIGHTS).is_file():
        if weights:
            raise DemoError(f"--weights: '{name}' holds weights of its own.")
        return Predictor.from_hub(folder)
    return Predictor.from_run(folder, checkpoint=weights)


class _OnnxModel:
    """An exported file whose detections have the form of the model's."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._predictor = OnnxPredictor(file)
        self._metadata = Metadata(name="onnx").set(thing_classes=list(self._predictor.class_names))
        if self._predictor.metadata["landmarks"] == "pose":
            names = list(COCO_PERSON_KEYPOINTS)
            self._metadata.set(keypoint_names=names, keypoint_connection_rules=connection_rules(names, []))

    def __call__(self, images: Sequence[np.ndarray]) -> list[NamedInstances]:
        found: Any = self._predictor(list(images))
        return [NamedInstances(_instances(each), self._metadata, image) for each, image in zip(found, images, strict=True)]


def _instances(found: OnnxDetections) -> Instances:
    instances = Instances(found.image_size)
    instances.pred_boxes = Boxes(torch.from_numpy(np.array(found.boxes)))
    instances.scores = torch.from_numpy(np.array(found.scores))
    instances.pred_classes = torch.from_numpy(np.array(found.classes))
    if found.landmarks is not None and found.landmark_kind == "segm":
        height, width = found.image_size
        masks = [polygons_to_bitmask([contour.reshape(-1).astype(np.float64)], height, width) for contour in found.landmarks]
        instances.pred_masks = torch.from_numpy(np.stack(masks)) if masks else torch.zeros((0, height, width), dtype=torch.bool)
    elif found.landmarks is not None and found.landmark_kind == "pose":
        scores = np.broadcast_to(found.scores[:, None, None], (*found.landmarks.shape[:2], 1))
        instances.pred_keypoints = torch.from_numpy(np.concatenate([found.landmarks, scores], axis=2))
    return instances
