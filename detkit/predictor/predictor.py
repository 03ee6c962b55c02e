"""A detector that is ready for images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog, transforms
from torch import Tensor, nn

from detkit.checkpoint import CONFIG_FILE, CheckpointError, CheckpointFolder, load_state, local_file, read_checkpoint
from detkit.config import ConfigError, Section, check_config, get_cfg, method_node, usable_device
from detkit.data import connection_rules, transformed_pixels
from detkit.engine import Trainer, prepare_for_inference
from detkit.sharing import SHARED_WEIGHTS, fetch_shared_model, read_shared_model

from .images import BGRImage, ImageLike, read_bgr
from .named import config_and_weights
from .result import NamedInstances

__all__ = ["Predictor"]


class Predictor:
    """A detector that is ready for images, with the names of its classes.

    Example::

        predictor = Predictor("quick_fcos_shapes")
        instances = predictor("photo.jpg")
        print(instances.names, instances.scores)
        instances.draw().save("detections.jpg")

    Images are resized as ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST`` say, and seen at that one size: ``TEST.AUG`` is for evaluation.

    Args:
        model: a name of the model zoo, which has weights of its own; the path of a config file, or its name below ``configs/``; or a
            config from :func:`detkit.config.get_cfg`.
        weights: a file or an address of weights that fit the config in full; None: those of the name, else ``MODEL.WEIGHTS``.
        class_names: in the order of the model's classes; None: those in the file of weights, else those in the config
            (``DATASETS.CLASS_NAMES``), else those of the dataset in ``DATASETS.TEST`` where it is known, else "class 0" and so on.
        device: of torch; None: ``MODEL.DEVICE``. "cuda" becomes "cpu" where there is no GPU.

    Raises:
        ConfigError: a name that nothing has, a config that cannot be used, or no weights.
        CheckpointError: weights that are missing, broken, or do not fit the config in full (another number of classes).
        ValueError: not one name per class.
    """

    def __init__(
        self,
        model: CfgNode | str | os.PathLike[str],
        weights: str | os.PathLike[str] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        cfg, weights = config_and_weights(model, weights)
        check_config(cfg)
        if not weights:
            raise ConfigError("MODEL.WEIGHTS is '', so there is nothing to predict with. Name the weights that belong to the config.")
        # of a zoo's name, its file is fetched, checked and converted here
        self._set_up(cfg, read_checkpoint(local_file(weights)), weights, class_names, device)

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
        if (folder / SHARED_WEIGHTS).is_file() and checkpoint is None:
            raise CheckpointError(f"'{folder}' holds no run, but a shared model: read it with Predictor.from_hub.")
        cfg = get_cfg()
        cfg.merge_from_file(folder / CONFIG_FILE)
        check_config(cfg)
        if checkpoint is None:
            found = CheckpointFolder(folder).load_last(read_checkpoint)
            if found is None:
                raise CheckpointError(f"There is no checkpoint of the run in '{folder}' yet. Train it until the first one is saved.")
            path, state = found
        else:
            path = next((each for each in (folder / checkpoint, Path(checkpoint)) if each.is_file()), folder / checkpoint)
            state = read_checkpoint(path)
        return cls._of(cfg, state, str(path), device)

    @classmethod
    def from_hub(cls, name: str | os.PathLike[str], *, revision: str | None = None, device: str | None = None) -> Predictor:
        """A shared model: weights, config and class names from one folder, on the Hugging Face Hub or on this machine.

        Args:
            name: "user/name" on the hub, or the path of a folder that ``tools/share.py`` made.
            revision: branch, tag or commit on the hub; None: the newest.
            device: see :class:`Predictor`.

        Raises:
            CheckpointError: it cannot be fetched, or is no such model.
            ImportError: ``huggingface_hub`` is needed and not installed.
        """
        folder = fetch_shared_model(name, revision=revision)
        cfg, state = read_shared_model(folder)
        return cls._of(cfg, state, str(folder / SHARED_WEIGHTS), device)

    @classmethod
    def _of(cls, cfg: CfgNode, state: Mapping[str, Any], source: str, device: str | None) -> Predictor:
        predictor = cls.__new__(cls)
        predictor._set_up(cfg, state, source, None, device)
        return predictor

    def _set_up(self, cfg: CfgNode, state: Mapping[str, Any], source: str, class_names: Sequence[str] | None, device: str | None) -> None:
        """Model on its device, in evaluation mode and with its weights, and the names of its classes."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = source  # so that the backbone does not look for a start of its own
        cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE if device is None else device)
        cfg.freeze()
        Section(cfg, "INPUT").check({"FORMAT": ("BGR", "RGB")})
        self.cfg = cfg
        #: with its weights as they were read; what detects is a faster form of it, made anew where they have been changed or moved
        self.model: nn.Module = Trainer.build_model(cfg).eval()
        load_state(self.model, state["model"], source=source)
        self._prepare()
        self._resize = transforms.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.class_names = self._names(class_names, state.get("classes", []))
        #: of the classes and keypoints, for Detectron2's ``Visualizer`` and whatever else takes metadata
        self.metadata = self._metadata()

    def _prepare(self) -> None:
        self._detector = prepare_for_inference(self.cfg, self.model)
        self._prepared_of = _fingerprint(self.model)

    @property
    def device(self) -> torch.device:
        """What the model runs on."""
        return next(self.model.parameters()).device

    def _names(self, given: Sequence[str] | None, held: Sequence[str]) -> list[str]:
        """One name per class: those given; those held by the weights; the config's; the dataset's; numbers."""
        node = method_node(self.cfg)
        in_config = [str(name) for name in self.cfg.DATASETS.CLASS_NAMES]
        count = node.NUM_CLASSES if "NUM_CLASSES" in node else len(given or held or in_config)
        if given is not None and len(given) != count:
            raise ValueError(f"There are {len(given)} class names for the {count} classes of the model: give one per class, in order.")
        known = list(self._dataset.get("thing_classes", []))
        names = list(given or held or in_config or (known if len(known) == count else []))[:count]
        return names + [f"class {index}" for index in range(len(names), count)]

    def _metadata(self) -> Metadata:
        metadata = Metadata(name="predictor").set(thing_classes=self.class_names)
        keypoints = [str(name) for name in self.cfg.DATASETS.KEYPOINT_NAMES] or self._dataset.get("keypoint_names")
        if keypoints:
            rules = self._dataset.get("keypoint_connection_rules") or connection_rules(keypoints, [])
            metadata.set(keypoint_names=list(keypoints), keypoint_connection_rules=rules)
        if self._dataset.get("thing_classes") == self.class_names:
            ids = self._dataset.get("thing_dataset_id_to_contiguous_id", {})
            if sorted(ids.values()) == list(range(len(self.class_names))):
                metadata.set(category_ids=sorted(ids, key=ids.__getitem__))
        return metadata

    @property
    def _dataset(self) -> Metadata:
        """Of the first dataset of ``DATASETS.TEST``, which may know more of classes and keypoints."""
        name = next(iter(self.cfg.DATASETS.TEST), None)
        return MetadataCatalog.get(name) if name in MetadataCatalog.list() else Metadata()

    @overload
    def __call__(self, images: ImageLike, *, batch_size: int = 1) -> NamedInstances: ...

    @overload
    def __call__(self, images: Sequence[ImageLike], *, batch_size: int = 1) -> list[NamedInstances]: ...

    @torch.no_grad()
    def __call__(self, images: Any, *, batch_size: int = 1) -> NamedInstances | list[NamedInstances]:
        """The detections on an image, or of each image of a list.

        Args:
            images: a path; an array (H, W, 3) in the order BGR or (H, W) in gray, of uint8; a PIL image; a tensor (3, H, W) in the order
                RGB, of uint8 or from 0 to 1; or a list of these, of any sizes. A tensor (N, 3, H, W) is a list, too.
            batch_size: images of a list that the model sees at once, padded to one size.

        Returns:
            Detectron2's Instances on the CPU, in pixels of the image: ``pred_boxes``, ``scores``, ``pred_classes`` and what else the
            model predicts (``pred_masks``, ``pred_keypoints``), with ``names``, ``draw()``, ``to_coco()`` and ``to_supervision()``.

        Raises:
            DataError: an image file that cannot be read.
            TypeError, ValueError: an array of another shape or type, or something that is no image.
        """
        if not isinstance(images, (list, tuple)) and not (isinstance(images, Tensor) and images.ndim == 4):
            return self([images])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. It has to be 1 or more.")
        if _fingerprint(self.model) != self._prepared_of:
            self._prepare()
        found: list[NamedInstances] = []
        for start in range(0, len(images), batch_size):
            group = list(images[start : start + batch_size])
            outputs = self._detector([self._input(read_bgr(image, deep_images=self.cfg.INPUT.DEEP_IMAGES)) for image in group])
            for image, output in zip(group, outputs, strict=True):
                found.append(NamedInstances(output["instances"].to("cpu"), self.metadata, image))
        return found

    def _input(self, pixels: BGRImage) -> dict[str, Any]:
        height, width = pixels.shape[:2]
        if self.cfg.INPUT.FORMAT == "RGB":
            pixels = pixels[..., ::-1]
        resized = transformed_pixels(self._resize.get_transform(pixels), pixels, resizing=self.cfg.INPUT.RESIZE)
        image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)).astype("float32"))
        return {"image": image, "height": height, "width": width}


def _fingerprint(model: nn.Module) -> list[tuple[Any, ...]]:
    """What differs where a tensor of a model was exchanged, moved, or changed in place."""
    tensors = (*model.parameters(), *model.buffers())
    return [(id(tensor), tensor.data_ptr(), tensor.device, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
