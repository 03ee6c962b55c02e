"""From trained weights to detections on pictures, in a notebook or a script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import rc_context
from numpy.typing import NDArray
from PIL import Image

from detkit.checkpoint import CheckpointFolder, load_state, local_path, read_checkpoint
from detkit.config import ConfigError, get_cfg, method_node
from detkit.data.reading import ImageReadError, pixels_of, read_image
from detkit.engine import Trainer, resolve_config

__all__ = ["Predictor"]

#: a path, an array (H, W, 3) in the order BGR or (H, W), uint8, or an image of Pillow
ImageLike = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image


class Predictor:
    """A trained detector that takes images as they come.

    Example::

        >>> predictor = Predictor.from_run("output/raccoon")
        >>> instances = predictor("image.jpg")
        >>> [predictor.class_names[i] for i in instances.pred_classes]
        >>> Image.fromarray(predictor.draw("image.jpg", instances))

    Images are read, turned and resized as in evaluation. Without a CUDA device it runs on the CPU.

    Args:
        cfg: a config from :func:`detkit.config.get_cfg`; ``MODEL.WEIGHTS`` names the weights, of any source that is known. It is not
            changed.
        class_names: of the model's classes, in their order; None: those that the weights or the datasets of the config carry.
        device: "cpu", "cuda" or "cuda:1", for instance; None: ``MODEL.DEVICE``.

    Raises:
        ConfigError: an impossible value, no weights, or not one name per class.
        CheckpointError: the weights cannot be read, or are not those of this very model: of another number of classes, for instance.
    """

    def __init__(self, cfg: CfgNode, *, class_names: Sequence[str] | None = None, device: str | None = None) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise ConfigError("MODEL.WEIGHTS is ''. To predict, it has to name the trained weights.")
        self._prepare(cfg, cfg.MODEL.WEIGHTS, read_checkpoint(local_path(cfg.MODEL.WEIGHTS)), class_names, device)

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str], *, device: str | None = None) -> Predictor:
        """The detector that a training has left in its ``OUTPUT_DIR``: config, newest whole checkpoint, and names of the classes.

        Raises:
            FileNotFoundError: there is no such folder, or no config or checkpoint in it.
            OSError: every checkpoint is broken.
        """
        config_file = Path(folder) / "config.yaml"
        if not config_file.is_file():
            raise FileNotFoundError(f"There is no {config_file}. Name the OUTPUT_DIR of a training.")
        found = CheckpointFolder(folder).load_last(read_checkpoint)
        if found is None:
            raise FileNotFoundError(f"There is no checkpoint of the run in {folder} yet.")
        cfg = get_cfg()
        cfg.merge_from_file(config_file)
        predictor = cls.__new__(cls)
        predictor._prepare(cfg, str(found[0]), found[1], None, device)
        return predictor

    def _prepare(
        self, cfg: CfgNode, weights: str, checkpoint: Mapping[str, Any], class_names: Sequence[str] | None, device: str | None
    ) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights  # also so that the weights of the backbone alone are not looked for
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        self.cfg = resolve_config(cfg)
        self.model = Trainer.build_model(self.cfg).eval()
        load_state(self.model, checkpoint["model"], source=weights, strict=True)
        self.class_names = _class_names(self.cfg, class_names, checkpoint.get("class_names"))
        self._resize = T.AugmentationList(build_augmentation(self.cfg, is_train=False))

    @overload
    def __call__(self, images: ImageLike) -> Instances: ...

    @overload
    def __call__(self, images: Sequence[ImageLike], *, batch_size: int = 1) -> list[Instances]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 1) -> Instances | list[Instances]:
        """The detections on an image, or on every one of a list.

        Args:
            images: a path, an array (H, W, 3) in the order BGR as Detectron2's ``DefaultPredictor`` takes it, or (H, W) of gray values,
                uint8, or an image of Pillow; or a list or tuple of them, of any sizes.
            batch_size: images of a list that the model computes at once.

        Returns:
            Detectron2's ``Instances`` on the CPU, with ``pred_boxes`` in pixels of the image, ``scores`` in [0, 1], ``pred_classes``, and
            what the detector finds beside.

        Raises:
            ImageReadError: a file cannot be read, or an array is no image; names it.
        """
        if not isinstance(images, (list, tuple)):
            return self._predict([images])[0]  # type: ignore[list-item]
        starts = range(0, len(images), batch_size)
        return [instances for start in starts for instances in self._predict(images[start : start + batch_size])]

    @torch.no_grad()
    def _predict(self, images: Sequence[ImageLike]) -> list[Instances]:
        outputs = self.model([self._input(image) for image in images])
        return [output["instances"].to("cpu") for output in outputs]

    def _input(self, image: ImageLike) -> dict[str, Any]:
        pixels = self._pixels(image, self.cfg.INPUT.FORMAT)
        height, width = pixels.shape[:2]
        resized = T.AugInput(pixels)
        self._resize(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def _pixels(self, image: ImageLike, order: str) -> NDArray[Any]:
        """(H, W, C) in an order of channels."""
        deep_images = self.cfg.INPUT.DEEP_IMAGES
        if isinstance(image, (str, os.PathLike)):
            try:
                return read_image(image, order, deep_images=deep_images)
            except ImageReadError as error:
                raise ImageReadError(f"The image {os.fspath(image)} cannot be read: {error}") from error
        if isinstance(image, Image.Image):
            return pixels_of(image, order, deep_images=deep_images)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            kind = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
            raise ImageReadError(
                f"An image is a path, an image of Pillow, or an array of uint8 (H, W, 3) in the order BGR or (H, W), not {kind}."
            )
        return pixels_of(Image.fromarray(image if image.ndim == 2 else image[:, :, ::-1]), order)

    def draw(self, image: ImageLike, instances: Instances | None = None, *, min_score: float = 0.5) -> NDArray[np.uint8]:
        """The image with its detections: boxes, masks and keypoints, each with the name of its class and its score.

        Args:
            image: see :meth:`__call__`.
            instances: the detections; None: they are predicted.
            min_score: detections below it are not drawn.

        Returns:
            (H, W, 3) in the order RGB.
        """
        found = self._predict([image])[0] if instances is None else instances.to("cpu")
        metadata = Metadata(thing_classes=self.class_names)
        if found.has("pred_keypoints"):
            people = MetadataCatalog.get("keypoints_coco_2017_val")
            metadata.set(keypoint_names=people.keypoint_names, keypoint_connection_rules=people.keypoint_connection_rules)
        with rc_context({"text.parse_math": False}):
            drawn = Visualizer(self._pixels(image, "RGB"), metadata).draw_instance_predictions(found[found.scores >= min_score])
        return drawn.get_image()


def _class_names(cfg: CfgNode, given: Sequence[str] | None, saved: Sequence[str] | None) -> list[str]:
    """One name per class: those given, those of the checkpoint, or those of the training data; else numbers."""
    num_classes = method_node(cfg).NUM_CLASSES
    if given is not None and len(given) != num_classes:
        raise ConfigError(f"There are {len(given)} class names, but the model has {num_classes} classes.")
    known = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", []) if cfg.DATASETS.TRAIN else []
    for names in (given, saved, known):
        if names is not None and len(names) == num_classes:
            return list(names)
    return [f"class {number}" for number in range(num_classes)]
