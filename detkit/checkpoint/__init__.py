"""Weights: read safely and from every known source, written whole or not at all."""

from . import detectron2_reading  # noqa: F401  makes Detectron2's own readers safe
from .conversion import ConversionReport, convert_state_dict, read_published_layouts
from .convert import convert_file
from .download import fetch
from .errors import CheckpointError
from .files import read_checkpoint
from .loading import load_state, load_weights, local_file
from .soundness import as_tensor, checked_weight, non_finite
from .unpickling import load_pickle_safely
from .writer import (
    CONFIG_FILE,
    LAST_CHECKPOINT,
    RUN_FILE,
    CheckpointFolder,
    WriteError,
    readable_size,
    state_size,
    write_atomically,
    write_text_atomically,
)
from .zoo import add_zoo_file, zoo_file

__all__ = [
    "CONFIG_FILE",
    "LAST_CHECKPOINT",
    "RUN_FILE",
    "CheckpointError",
    "CheckpointFolder",
    "ConversionReport",
    "WriteError",
    "add_zoo_file",
    "as_tensor",
    "checked_weight",
    "convert_file",
    "convert_state_dict",
    "fetch",
    "load_pickle_safely",
    "load_state",
    "load_weights",
    "local_file",
    "non_finite",
    "read_checkpoint",
    "read_published_layouts",
    "readable_size",
    "state_size",
    "write_atomically",
    "write_text_atomically",
    "zoo_file",
]
