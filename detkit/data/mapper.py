"""The mappers of training and evaluation, which report unreadable images clearly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.transforms import AugmentationList
from fvcore.common.registry import Registry
from PIL import Image

from detkit.registry import registered

from .checks import DataError
from .pixels import FastAugmentations
from .reading import DeepImages, read_image, reading_with

__all__ = ["MAPPER_REGISTRY", "UNREADABLE", "ReadErrorMapper", "build_test_mapper", "build_train_mapper"]

logger = logging.getLogger(__name__)

MAPPER_REGISTRY: Registry = Registry("MAPPER")
MAPPER_REGISTRY.__doc__ = "What prepares images for training, by class name: subclasses of Detectron2's ``DatasetMapper``."
MAPPER_REGISTRY.register(DatasetMapper)

#: key that stands in a test record whose image could not be read and is to be left out
UNREADABLE = "unreadable"

# of reading, all of them ImageReadError, a ValueError; and of Detectron2 where the size differs from the annotation or becomes nothing
_READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ReadErrorMapper:
    """Calls another mapper, lets it read images by :func:`detkit.data.read_image`, and says which image it failed on.

    Args:
        mapper: takes a dataset dict and reads its image.
        skip: return None for a broken image, for which the training loader takes another one, or what ``left_out`` gives. Each is named
            once in the log, with the number so far (per data worker).
        deep_images: what is done with images of more than 8 bits per channel.
        left_out: from the dataset dict of a skipped image to what is returned for it; None: None.
    """

    def __init__(
        self,
        mapper: Callable[[dict], dict[str, Any]],
        *,
        skip: bool = False,
        deep_images: DeepImages = "error",
        left_out: Callable[[dict], dict[str, Any] | None] | None = None,
    ) -> None:
        self._mapper, self._skip, self._left_out = mapper, skip, left_out
        self._read = partial(read_image, deep_images=deep_images)
        self._skipped: set[str] = set()

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """The mapped image, or None where it is skipped.

        Raises:
            DataError: the image cannot be used and must not be skipped; names file, image id, cause and remedy.
        """
        try:
            with reading_with(self._read):
                return self._mapper(dataset_dict)
        except _READ_ERRORS as error:
            name, image_id = dataset_dict.get("file_name", "?"), dataset_dict.get("image_id", "?")
            if not self._skip:
                raise DataError(
                    f"The image {name} (id {image_id}) cannot be used: {error}. Correct or remove it, or set DATASETS.ON_BAD_IMAGE "
                    '"skip" to go on without it.'
                ) from error
            if name not in self._skipped:
                self._skipped.add(name)
                logger.warning("Skipped a broken image (%d so far): %s (id %s): %s", len(self._skipped), name, image_id, error)
            return None if self._left_out is None else self._left_out(dataset_dict)


def build_train_mapper(cfg: CfgNode) -> ReadErrorMapper:
    """The mapper of ``INPUT.MAPPER``, with ``DATASETS.ON_BAD_IMAGE`` for what breaks while training.

    Raises:
        ConfigError: no such mapper; names the nearest that exists.
    """
    mapper = _fast(registered(MAPPER_REGISTRY, cfg.INPUT.MAPPER, "mapper", key="INPUT.MAPPER")(cfg, is_train=True), cfg)
    return ReadErrorMapper(mapper, skip=cfg.DATASETS.ON_BAD_IMAGE == "skip", deep_images=cfg.INPUT.DEEP_IMAGES)


def build_test_mapper(cfg: CfgNode) -> ReadErrorMapper:
    """Detectron2's mapper for evaluation. Where broken images are skipped, theirs are ``{"image_id": ..., UNREADABLE: True}``."""
    mapper = _fast(DatasetMapper(cfg, is_train=False), cfg)
    skip = cfg.DATASETS.ON_BAD_IMAGE == "skip"
    return ReadErrorMapper(mapper, skip=skip, deep_images=cfg.INPUT.DEEP_IMAGES, left_out=_unreadable)


def _fast(mapper: Any, cfg: CfgNode) -> Any:
    """The mapper, with ``INPUT.RESIZE`` where it holds augmentations as Detectron2's does."""
    if type(getattr(mapper, "augmentations", None)) is AugmentationList:
        mapper.augmentations = FastAugmentations(mapper.augmentations.augs, resizing=cfg.INPUT.RESIZE)
    return mapper


def _unreadable(record: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": record["image_id"], UNREADABLE: True}
