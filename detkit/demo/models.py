"""From the words of a command line to something that predicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import Metadata

from detkit.data import connection_rules
from detkit.data.keypoints import COCO_PERSON_KEYPOINTS
from detkit.export import to_instances
from detkit.onnx_predictor import OnnxPredictor
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
        return _OnnxModel(weights or name or "", batch_size)
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

    def __init__(self, file: str | os.PathLike[str], batch_size: int) -> None:
        self._predictor = OnnxPredictor(file)
        self._batch_size = batch_size
        self._metadata = Metadata(name="onnx").set(thing_classes=list(self._predictor.class_names))
        if self._predictor.metadata.get("category_ids"):
            self._metadata.set(category_ids=self._predictor.metadata["category_ids"])
        if "pose" in self._predictor.landmark_outputs:
            names = self._predictor.metadata.get("keypoint_names") or list(COCO_PERSON_KEYPOINTS)
            self._metadata.set(keypoint_names=names, keypoint_connection_rules=connection_rules(names, []))

    def __call__(self, images: Sequence[np.ndarray]) -> list[NamedInstances]:
        found = self._predictor(list(images), batch_size=self._batch_size)
        return [NamedInstances(to_instances(each), self._metadata, image) for each, image in zip(found, images, strict=True)]
