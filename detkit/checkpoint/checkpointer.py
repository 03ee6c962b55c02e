"""Loading weights into a model, whatever their source."""

from __future__ import annotations

import logging
import os
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from .conversion import ConversionReport, convert_state_dict
from .files import CheckpointError, read_checkpoint

__all__ = ["DetkitCheckpointer", "load_weights"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str, *, strict: bool = False) -> ConversionReport:
    """Loads a file of weights of any known source into a model.

    Args:
        model: changed in place.
        path: of a local file, or an address that Detectron2's ``PathManager`` knows (``https://``, ``detectron2://``).
        strict: every weight of the model must be in the file and every key of the file must have its place.

    Returns:
        what was loaded and what not; unless all is as it should be, it is also logged as a warning.

    Raises:
        CheckpointError: the file is missing or cannot be read, fits nothing, or only partly and ``strict``.
    """
    return _load_state_dict(model, read_checkpoint(_local(path))["model"], path, strict)


def _load_state_dict(model: nn.Module, state_dict: dict[str, Any], path: str, strict: bool) -> ConversionReport:
    try:
        converted, report = convert_state_dict(state_dict, model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if strict and not report.complete:
        raise CheckpointError(
            f"{path} fits the model only in part, so its results would mean nothing.\n{report}\n"
            "Check that the config is the one that the weights were trained with."
        )
    level = logging.INFO if report.complete or (report.backbone_only and not report.mismatched) else logging.WARNING
    logger.log(level, "%s: %s", path, report)
    model.load_state_dict(converted, strict=False)
    return report


def _local(path: str) -> str:
    if "://" not in path and not os.path.isfile(path):
        raise CheckpointError(f"There is no checkpoint '{path}': check MODEL.WEIGHTS.")
    try:
        return PathManager.get_local_path(path)
    except OSError as error:
        raise CheckpointError(f"The checkpoint '{path}' could not be fetched: {error}") from None


class DetkitCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, reading safely and from every known source.

    Args:
        strict: refuse weights that fit the model only in part; for evaluation.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, strict: bool = False, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.strict = strict
        self._path = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2's: the model's weights, then the other checkpointables; returns what else the file holds."""
        self._path = path
        try:
            return super().load(_local(path) if path else path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        _load_state_dict(self.model, checkpoint.pop("model"), self._path, self.strict)
        return _IncompatibleKeys(missing_keys=[], unexpected_keys=[], incorrect_shapes=[])  # already reported
