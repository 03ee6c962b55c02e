"""Weights: read safely and from every known source, written whole or not at all."""

from .conversion import ConversionReport, convert_state_dict, read_published_layouts
from .files import CheckpointError, read_checkpoint
from .loading import load_state, load_weights, local_path
from .writer import LAST_CHECKPOINT, RUN_RECORD, CheckpointFolder, write_atomically, write_text_atomically

__all__ = [
    "LAST_CHECKPOINT",
    "RUN_RECORD",
    "CheckpointError",
    "CheckpointFolder",
    "ConversionReport",
    "convert_state_dict",
    "load_state",
    "load_weights",
    "local_path",
    "read_checkpoint",
    "read_published_layouts",
    "write_atomically",
    "write_text_atomically",
]
