"""Loading weights into a model, whatever their source."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.request import url2pathname

from detectron2.utils.file_io import PathManager
from fsspec.registry import known_implementations
from torch import nn

import detkit.storage  # noqa: F401  lets PathManager open storages

from .belonging import what_speaks_against, without_mark
from .conversion import ConversionReport, convert_state_dict, remember_stranger
from .errors import CheckpointError
from .files import read_checkpoint

__all__ = ["load_state", "load_weights", "local_file"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = False) -> ConversionReport:
    """Loads a file of weights of any known source into a model.

    Args:
        model: changed in place.
        path: of a local file, or an address that Detectron2's ``PathManager`` knows (``https://``, ``detectron2://``, ``detkit://NAME`` for
            the model zoo).
        strict: every weight of the model must be in the file and every key of the file must have its place. A model in evaluation mode
            always asks for that: with a random classifier its predictions would mean nothing.

    Returns:
        what was loaded and what not; unless all is as it should be, it is also logged as a warning.

    Raises:
        CheckpointError: the file is missing or cannot be read, fits nothing, or fits only in part where all is asked for, or holds
            published weights that mean something else than the model's config says.
    """
    return load_state(model, read_checkpoint(local_file(path))["model"], source=os.fspath(path), strict=strict)


def load_state(model: nn.Module, state_dict: Mapping[str, Any], *, source: str, strict: bool = False) -> ConversionReport:
    """:func:`load_weights` of a state dict that has been read already; ``source`` is its file or address."""
    try:
        state, name = without_mark(state_dict)
        converted, report = convert_state_dict(state, model)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    whole = strict or not model.training
    stranger = None if report.backbone_only else what_speaks_against(model, report.source, source=source, name=name)
    if whole and stranger and (report.complete or name):
        raise CheckpointError(stranger)
    if whole and not report.complete:
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
    remember_stranger(model, stranger)
    return report


def local_file(path: str | os.PathLike[str]) -> str:
    """Where a file of weights lies on this machine; one that an address names is fetched.

    Args:
        path: of a file, ``file:///path``, or an address whose beginning Detectron2's ``PathManager`` has a handler for: ``https://``,
            ``http://``, ``ftp://`` (:func:`detkit.checkpoint.fetch`), ``detectron2://``, ``catalog://``, and what else is registered.

    Raises:
        CheckpointError: there is no such file, it cannot be fetched, or nothing here opens addresses of this kind.
    """
    path = os.fspath(path)
    scheme = _SCHEME.match(path)
    if scheme is None or os.path.exists(path):
        if not os.path.isfile(path):
            what = "is a folder, not a checkpoint" if os.path.isdir(path) else "does not exist"
            raise CheckpointError(f"There is no checkpoint '{path}' (it {what}): check MODEL.WEIGHTS.")
        return path
    if path.startswith("file:///"):
        return local_file(url2pathname(path.removeprefix("file://")))
    known = sorted(PathManager._path_handlers)
    if not path.startswith(tuple(known)):
        storage = known_implementations.get(path.partition(":")[0], {}).get("err")
        hint = f" {storage.rstrip('.')}, if that is meant." if storage else ""
        raise CheckpointError(
            f"'{path}': addresses that begin with '{scheme[0]}' are not opened here.{hint} Those that are begin with {', '.join(known)}. "
            "Or download the file and name its path in MODEL.WEIGHTS."
        )
    try:
        return PathManager.get_local_path(path)
    except CheckpointError:
        raise
    except Exception as error:  # handlers of others raise what they like
        reason = f"there is no entry {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise CheckpointError(f"The checkpoint '{path}' could not be fetched: {reason}. Check MODEL.WEIGHTS.") from None


#: of an address; a drive of Windows has one letter
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//)?")
