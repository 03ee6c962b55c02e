"""Keeping detectors from being traced in ways that give wrong programs."""

from __future__ import annotations

import torch

__all__ = ["refuse_tracing"]


def refuse_tracing(what: str) -> None:
    """Raises where ``forward`` of a detector, which takes Detectron2's dicts, is being traced or exported.

    Sizes of images and numbers of detections would become constants, and the program would give wrong boxes for the next image.

    Raises:
        RuntimeError: names the way that works.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            f"{what}.forward cannot be traced: sizes of this image would become constants. Write files with tools/export.py; "
            "what torch.export and torch.compile can follow is detkit.export.DetectorProgram(model)."
        )
