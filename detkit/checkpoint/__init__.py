"""Weights: read safely and from every known source, written whole or not at all."""

from .conversion import ConversionReport, convert_state_dict, read_published_layouts
from .errors import CheckpointError
from .files import read_checkpoint
from .loading import load_state, load_weights, local_file
from .soundness import as_tensor, checked_weight, non_finite
from .writer import CONFIG_FILE, LAST_CHECKPOINT, RUN_FILE, CheckpointFolder, write_atomically, write_text_atomically

__all__ = [
    "CONFIG_FILE",
    "LAST_CHECKPOINT",
    "RUN_FILE",
    "CheckpointError",
    "CheckpointFolder",
    "ConversionReport",
    "as_tensor",
    "checked_weight",
    "convert_state_dict",
    "load_state",
    "load_weights",
    "local_file",
    "non_finite",
    "read_checkpoint",
    "read_published_layouts",
    "write_atomically",
    "write_text_atomically",
]
