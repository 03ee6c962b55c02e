"""From a trained detector to detections on images: config, weights, class names and device in one object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, transforms
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from detkit.checkpoint import CONFIG_FILE, CheckpointError, CheckpointFolder, load_state, local_file, read_checkpoint
from detkit.config import ConfigError, Section, get_cfg, method_node, usable_device
from detkit.data import DataError, ImageReadError, mask_to_polygons, pixels_of, read_image
from detkit.engine import Trainer
from detkit.visualization import DrawnObject, draw_objects

__all__ = ["ImageLike", "Predictor"]

BGRImage = NDArray[np.uint8]
#: a path, a BGR image (H, W, 3) or a gray one (H, W), as ``cv2.imread`` gives them, or a PIL image
ImageLike = str | os.PathLike[str] | BGRImage | Image.Image
#: what objects are drawn in, class by class
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#e65fbc")
#: longer side in pixels that a drawing has at least, so that names can be read
_LEAST_SIDE = 520


class Predictor:
    """A detector that is ready for images, with the names of its classes.

    Example::

        predictor = Predictor.from_run("output/raccoon")
        instances = predictor("photo.jpg")
        print(predictor.names(instances), instances.scores)
        predictor.draw("photo.jpg", instances).save("detections.jpg")

    Images are resized as ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST`` say, and seen at that one size: ``TEST.AUG`` is for evaluation.

    Args:
        cfg: a config from :func:`detkit.config.get_cfg`, or the path of a config file.
        weights: a file or an address of weights that fit the config in full; None: ``MODEL.WEIGHTS``.
        class_names: in the order of the model's classes; None: those in the file of weights, else those of the dataset in
            ``DATASETS.TEST`` where it is known, else "class 0" and so on.
        device: of torch; None: ``MODEL.DEVICE``. "cuda" becomes "cpu" where there is no GPU.

    Raises:
        ConfigError: a config that cannot be used, or no weights.
        CheckpointError: weights that are missing, broken, or do not fit the config in full (another number of classes).
        ValueError: not one name per class.
    """

    def __init__(
        self,
        cfg: CfgNode | str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        cfg = _config(cfg)
        weights = cfg.MODEL.WEIGHTS if weights is None else os.fspath(weights)
        if not weights:
            raise ConfigError("MODEL.WEIGHTS is '', so there is nothing to predict with. Name the weights that belong to the config.")
        self._set_up(cfg, weights, device)
        state = read_checkpoint(local_file(weights))
        load_state(self.model, state["model"], source=weights)
        self.class_names = self._names(class_names, state.get("classes", []))

    @classmethod
    def from_run(
        cls, folder: str | os.PathLike[str], *, checkpoint: str | os.PathLike[str] | None = None, device: str | None = None
    ) -> Predictor:
        """The detector that a training has left in its ``OUTPUT_DIR``: config, newest weights, class names.

        Args:
            folder: of the run.
            checkpoint: one of its checkpoints, by its name in the folder or by its path; None: the newest.
            device: see :class:`Predictor`.

        Raises:
            CheckpointError: no such folder, or no checkpoint of the run in it.
            ConfigError: its ``config.yaml`` is missing or broken.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder '{folder}'. Name the OUTPUT_DIR of a training.")
        cfg = get_cfg()
        cfg.merge_from_file(folder / CONFIG_FILE)
        if checkpoint is None:
            found = CheckpointFolder(folder).load_last(read_checkpoint)
            if found is None:
                raise CheckpointError(f"There is no checkpoint of the run in '{folder}' yet. Train it until the first one is saved.")
            path, state = found
        else:
            path = next((each for each in (folder / checkpoint, Path(checkpoint)) if each.is_file()), folder / checkpoint)
            state = read_checkpoint(path)
        predictor = cls.__new__(cls)
        predictor._set_up(cfg, str(path), device)
        load_state(predictor.model, state["model"], source=str(path))
        predictor.class_names = predictor._names(None, state.get("classes", []))
        return predictor

    def _set_up(self, cfg: CfgNode, weights: str, device: str | None) -> None:
        """The model on its device in evaluation mode, its weights still random."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights  # so that the backbone does not look for a start of its own
        cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE if device is None else device)
        cfg.freeze()
        Section(cfg, "INPUT").check({"FORMAT": ("BGR", "RGB")})
        self.cfg = cfg
        self.model: nn.Module = Trainer.build_model(cfg).eval()
        self._resize = transforms.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    @property
    def device(self) -> torch.device:
        """What the model runs on."""
        return next(self.model.parameters()).device

    def _names(self, given: Sequence[str] | None, held: Sequence[str]) -> list[str]:
        """One name per class: those given; those held by the weights; the dataset's; numbers."""
        node = method_node(self.cfg)
        count = node.NUM_CLASSES if "NUM_CLASSES" in node else len(given or held)
        if given is not None and len(given) != count:
            raise ValueError(f"There are {len(given)} class names for the {count} classes of the model: give one per class, in order.")
        known = MetadataCatalog.get(self._dataset).get("thing_classes", []) if self._dataset else []
        names = list(given or held or (known if len(known) == count else []))[:count]
        return names + [f"class {index}" for index in range(len(names), count)]

    @overload
    def __call__(self, images: ImageLike, *, batch_size: int = 1) -> Instances: ...

    @overload
    def __call__(self, images: Sequence[ImageLike], *, batch_size: int = 1) -> list[Instances]: ...

    @torch.no_grad()
    def __call__(self, images: Any, *, batch_size: int = 1) -> Instances | list[Instances]:
        """The detections on an image, or of each image of a list.

        Args:
            images: a path, an array (H, W, 3) in the order BGR or (H, W) in gray of 8 bits, a PIL image, or a list of these.
            batch_size: images of a list that the model sees at once, padded to one size.

        Returns:
            Detectron2's Instances on the CPU, in pixels of the image: ``pred_boxes``, ``scores``, ``pred_classes`` and what else the
            model predicts (``pred_masks``, ``pred_keypoints``).

        Raises:
            DataError: an image file that cannot be read.
            TypeError, ValueError: an array of another shape or type, or something that is no image.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. It has to be 1 or more.")
        found: list[Instances] = []
        for start in range(0, len(images), batch_size):
            inputs = [self._input(self.read(image)) for image in images[start : start + batch_size]]
            found += [output["instances"].to("cpu") for output in self.model(inputs)]
        return found

    def names(self, instances: Instances) -> list[str]:
        """The name of the class of every detection."""
        return [self.class_names[index] for index in instances.pred_classes.tolist()]

    def draw(self, image: ImageLike, instances: Instances | None = None, *, min_score: float = 0.3) -> Image.Image:
        """The image with its detections: boxes, masks, keypoints, names and scores.

        Args:
            image: as for prediction.
            instances: its detections; None: they are predicted.
            min_score: below which a detection is left out, in [0, 1].
        """
        pixels = self.read(image)
        instances = self(pixels) if instances is None else instances
        instances = instances[instances.scores >= min_score]
        names, scores = self.names(instances), instances.scores.tolist()
        masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
        points = instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None
        objects = [
            DrawnObject(
                box=tuple(box),
                label=f"{names[i]} {scores[i]:.2f}",
                color=_COLORS[int(instances.pred_classes[i]) % len(_COLORS)],
                segmentation=None if masks is None else mask_to_polygons(masks[i]),
                keypoints=None if points is None else points[i],
            )
            for i, box in enumerate(instances.pred_boxes.tensor.tolist())
        ]
        drawn = draw_objects(
            np.ascontiguousarray(pixels[..., ::-1]),
            objects,
            dataset_name=self._dataset if points is not None else None,
            size=max(*pixels.shape[:2], _LEAST_SIDE),
        )
        return Image.fromarray(drawn)

    @property
    def _dataset(self) -> str | None:
        """The first dataset of ``DATASETS.TEST``, whose metadata may know more of classes and keypoints."""
        return next(iter(self.cfg.DATASETS.TEST), None)

    def read(self, image: ImageLike) -> BGRImage:
        """An image of any kind that the predictor takes as an array (H, W, 3) in the order BGR.

        Raises:
            DataError, TypeError, ValueError: as of a call of the predictor.
        """
        deep_images = self.cfg.INPUT.DEEP_IMAGES
        try:
            if isinstance(image, Image.Image):
                return pixels_of(image, "BGR", deep_images=deep_images)  # type: ignore[return-value]
            if isinstance(image, (str, os.PathLike)):
                return read_image(image, "BGR", deep_images=deep_images)  # type: ignore[return-value]
        except ImageReadError as error:
            name = "of Pillow" if isinstance(image, Image.Image) else str(image)
            raise DataError(f"The image {name} cannot be read: {error}") from error
        if not isinstance(image, np.ndarray):
            raise TypeError(f"An image is a path, an array or a PIL image, not a {type(image).__name__}.")
        if image.dtype != np.uint8:
            raise ValueError(f"The image is an array of {image.dtype}. It has to be of uint8, from 0 to 255.")
        if image.ndim == 2:
            return np.repeat(image[..., None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"The image has the shape {image.shape}. It has to be (H, W, 3) in the order BGR, or (H, W) in gray.")
        return image

    def _input(self, pixels: BGRImage) -> dict[str, Any]:
        height, width = pixels.shape[:2]
        if self.cfg.INPUT.FORMAT == "RGB":
            pixels = pixels[..., ::-1]
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)).astype("float32"))
        return {"image": image, "height": height, "width": width}


def _config(cfg: CfgNode | str | os.PathLike[str]) -> CfgNode:
    if isinstance(cfg, CfgNode):
        return cfg
    read = get_cfg()
    read.merge_from_file(cfg)
    return read
