"""Loading weights into a model, whatever their source."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from detectron2.utils.file_io import PathManager
from torch import nn

from .conversion import ConversionReport, convert_state_dict
from .errors import CheckpointError
from .files import read_checkpoint

__all__ = ["load_state", "load_weights", "local_file"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = False) -> ConversionReport:
    """Loads a file of weights of any known source into a model.

    Args:
        model: changed in place.
        path: of a local file, or an address that Detectron2's ``PathManager`` knows (``https://``, ``detectron2://``).
        strict: every weight of the model must be in the file and every key of the file must have its place. A model in evaluation mode
            always asks for that: with a random classifier its predictions would mean nothing.

    Returns:
        what was loaded and what not; unless all is as it should be, it is also logged as a warning.

    Raises:
        CheckpointError: the file is missing or cannot be read, fits nothing, or fits only in part where all is asked for.
    """
    return load_state(model, read_checkpoint(local_file(path))["model"], source=os.fspath(path), strict=strict)


def load_state(model: nn.Module, state_dict: Mapping[str, Any], *, source: str, strict: bool = False) -> ConversionReport:
    """:func:`load_weights` of a state dict that has been read already; ``source`` is its name for messages."""
    try:
        converted, report = convert_state_dict(state_dict, model)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    if (strict or not model.training) and not report.complete:
        raise CheckpointError(
            f"{source} fits the model only in part, so its results would mean nothing.\n{report}\n"
            "Check that the config is the one that the weights were trained with."
        )
    hollow = [name for name, value in converted.items() if value.is_meta]
    if hollow:
        raise CheckpointError(f"{source}: the entry '{hollow[0]}' has a shape, but no numbers (it was saved from the device 'meta').")
    expected = report.complete or (report.backbone_only and not report.mismatched and not report.frozen)
    logger.log(logging.INFO if expected else logging.WARNING, "%s: %s", source, report)
    model.load_state_dict(converted, strict=False)
    return report


def local_file(path: str | os.PathLike[str]) -> str:
    """Where a file of weights lies on this machine; one that an address names is fetched.

    Raises:
        CheckpointError: there is no such file.
    """
    path = os.fspath(path)
    if "://" not in path and not os.path.isfile(path):
        raise CheckpointError(f"There is no checkpoint '{path}': check MODEL.WEIGHTS.")
    try:
        return PathManager.get_local_path(path)
    except OSError as error:
        raise CheckpointError(f"The checkpoint '{path}' could not be fetched: {error}") from None
