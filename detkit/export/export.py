"""From a model to a checked file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .check import Agreement, example_inputs, found_on, open_exported, verify
from .formats import FORMATS, save_onnx, save_torch_export, save_torchscript
from .program import DetectorProgram
from .settings import ExportError, ExportSettings

__all__ = ["export_detector"]


def export_detector(
    model: nn.Module,
    path: Path,
    *,
    file_format: str = "onnx",
    settings: ExportSettings | None = None,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
    photos: Sequence[Tensor] = (),
) -> Agreement:
    """Writes a detector to a file, and compares what the file gives with what the model gives.

    Args:
        model: FCOS, ATSS, DW, LSNet or Sparse R-CNN, on the CPU.
        path: of the file.
        file_format: one of ``FORMATS``.
        settings: sizes and outputs; None: any size, with post-processing.
        metadata: stored in the file, see :func:`detkit.export.metadata_of`.
        half: store the weights in half precision, ONNX only. The file is then compared with a model of rounded weights.
        photos: images (3, H, W) to compare on, in [0, 255]; none: generated ones.

    Returns:
        how far file and model agree.

    Raises:
        ExportError: the detector cannot be exported as asked, or the file gives something else; then there is no file.
    """
    settings = settings or ExportSettings()
    if file_format not in FORMATS:
        raise ExportError(f"the format is '{file_format}'; it has to be one of {', '.join(FORMATS)}.")
    if file_format == "torchscript" and (settings.size is None or settings.batch is None):
        raise ExportError("TorchScript keeps the sizes that it was traced with: give --size HxW and --batch N, or choose another format.")
    if path.is_dir():
        raise ExportError(f"'{path}' is a folder: name a file in it, such as '{path / f'model{FORMATS[file_format]}'}'.")
    if path.suffix in {suffix for name, suffix in FORMATS.items() if name != file_format}:
        raise ExportError(f"'{path}' ends as a file of another format than {file_format}, whose files end in {FORMATS[file_format]}.")
    if not hasattr(model, "detect_tensors"):
        raise ExportError(f"{type(model).__name__} has no tensor path. FCOS, ATSS, DW, LSNet and Sparse R-CNN have one.")
    if getattr(getattr(model, "postprocessor", None), "vote_sigma", 0.0) and not settings.raw:
        raise ExportError("boxes that are voted on (TEST.VOTE_SIGMA above 0) are not exported: export the maps alone, with --raw.")
    if half and file_format != "onnx":
        raise ExportError(f"weights are stored in half precision in ONNX files alone, not in {file_format}.")
    if half:
        _round_weights(model)
    program = DetectorProgram(model, raw=settings.raw)
    with torch.no_grad():
        program(*settings.example())  # tells the names of its outputs
    inputs = example_inputs(settings, photos)
    found_on(program, inputs)  # before anything is written, which takes minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        if file_format == "onnx":
            save_onnx(program, settings, partial, metadata or {}, half=half)
        else:
            save = save_torch_export if file_format == "torch_export" else save_torchscript
            save(program, settings, partial, metadata or {})
        run = open_exported(partial, file_format, program.output_names)
        agreement = verify(program, run, inputs)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return agreement


def _round_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
