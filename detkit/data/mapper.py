"""The mapper that a config names, with a clear word on images that break while training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from fvcore.common.registry import Registry
from PIL import Image

from detkit.registry import registered

from .checks import DataError

__all__ = ["MAPPER_REGISTRY", "ReadErrorMapper", "build_train_mapper"]

logger = logging.getLogger(__name__)

MAPPER_REGISTRY: Registry = Registry("MAPPER")
MAPPER_REGISTRY.__doc__ = "What prepares images for training, by class name: subclasses of Detectron2's ``DatasetMapper``."
MAPPER_REGISTRY.register(DatasetMapper)

# what Pillow raises for broken files (SyntaxError: PNG), and Detectron2 for a wrong size (a ValueError)
_READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ReadErrorMapper:
    """Calls another mapper and says which image it failed on.

    Args:
        mapper: takes a dataset dict and reads its image.
        skip: return None for a broken image, for which Detectron2's loader and ours take another one, instead of failing. Each
            is named once in the log, with the number so far (per data worker).
    """

    def __init__(self, mapper: Callable[[dict], dict[str, Any]], *, skip: bool = False) -> None:
        self._mapper, self._skip = mapper, skip
        self._skipped: set[str] = set()

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """The mapped image, or None where it is skipped.

        Raises:
            DataError: the image cannot be used and must not be skipped; names file, image id, cause and remedy.
        """
        try:
            return self._mapper(dataset_dict)
        except _READ_ERRORS as error:
            name, image_id = dataset_dict.get("file_name", "?"), dataset_dict.get("image_id", "?")
            if not self._skip:
                raise DataError(
                    f"The image {name} (id {image_id}) cannot be used: {error}. Correct or remove it, or set DATASETS.ON_BAD_IMAGE "
                    '"skip" to train without it.'
                ) from error
            if name not in self._skipped:
                self._skipped.add(name)
                logger.warning("Skipped a broken image (%d so far): %s (id %s): %s", len(self._skipped), name, image_id, error)
            return None


def build_train_mapper(cfg: CfgNode) -> ReadErrorMapper:
    """The mapper of ``INPUT.MAPPER``, with ``DATASETS.ON_BAD_IMAGE`` for what breaks while training.

    Raises:
        ConfigError: no such mapper; names the nearest that exists.
    """
    mapper = registered(MAPPER_REGISTRY, cfg.INPUT.MAPPER, "mapper", key="INPUT.MAPPER")(cfg, is_train=True)
    return ReadErrorMapper(mapper, skip=cfg.DATASETS.ON_BAD_IMAGE == "skip")
