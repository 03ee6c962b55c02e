"""Weights: read safely and from every known source, written whole or not at all."""

from .conversion import ConversionReport, convert_state_dict, read_published_layouts
from .files import CheckpointError, read_checkpoint
from .loading import load_state, load_weights, local_file
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

__all__ = [
    "CONFIG_FILE",
    "LAST_CHECKPOINT",
    "RUN_FILE",
    "CheckpointError",
    "CheckpointFolder",
    "ConversionReport",
    "WriteError",
    "convert_state_dict",
    "load_state",
    "load_weights",
    "local_file",
    "read_checkpoint",
    "read_published_layouts",
    "readable_size",
    "state_size",
    "write_atomically",
    "write_text_atomically",
]
