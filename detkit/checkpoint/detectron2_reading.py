"""Detectron2's own readers, made safe in the processes that use detkit.

Detectron2 unpickles in two places: weights that end in ``.pkl`` (``DetectionCheckpointer``, which ``DefaultPredictor`` and
``DefaultTrainer`` use) and proposals (``DATASETS.PROPOSAL_FILES_TRAIN`` and ``_TEST``); either file could run code. Importing
``detkit.checkpoint`` gives both modules :func:`detkit.checkpoint.unpickling.safe_load` in the place of ``pickle.load``, for every model.
Files that Detectron2 itself has written are read as ever, others are refused in one line.

Weights of detkit's models are read by :func:`detkit.checkpoint.read_checkpoint` there, too: every published layout, ``.safetensors``,
and the checks that :func:`detkit.checkpoint.load_weights` makes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer, detection_checkpoint
from detectron2.data import build as data_build

from .files import read_checkpoint
from .unpickling import safe_load

__all__ = ["OURS", "make_detectron2_read_safely"]

#: attribute of models whose weights are read here
OURS = "reads_published_layouts"
_read_theirs = DetectionCheckpointer._load_file


def make_detectron2_read_safely() -> None:
    """Puts the safe readers in place. Twice does no harm."""
    for module in (detection_checkpoint, data_build):
        module.pickle = SimpleNamespace(load=safe_load)
    DetectionCheckpointer._load_file = _load_file


def _load_file(checkpointer: DetectionCheckpointer, filename: str) -> dict[str, Any]:
    return read_checkpoint(filename) if getattr(checkpointer.model, OURS, False) else _read_theirs(checkpointer, filename)


make_detectron2_read_safely()
