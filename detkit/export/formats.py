"""Writing detectors as ONNX, as a program of ``torch.export``, or as TorchScript."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from detkit.layers import EXPORT_FORMS

from . import onnx_operators  # noqa: F401  which says how operators are exported
from .program import DetectorProgram
from .settings import ExportError, ExportSettings

__all__ = ["FORMATS", "export_program", "first_line", "quiet", "save_onnx", "save_torch_export", "save_torchscript"]

#: file suffix of each format
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".ts"}
#: initializers of fewer elements stay in float32 when a file is to be small
_LEAST_HALVED = 1024


def export_program(program: DetectorProgram, settings: ExportSettings) -> torch.export.ExportedProgram:
    """The program as ``torch.export`` sees it, with our own operators in it.

    Raises:
        ExportError: it needs an operation that depends on data.
    """
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(program, settings.example(), dynamic_shapes=settings.dynamic_shapes(), strict=False)
    except Exception as error:
        raise ExportError(f"torch.export cannot follow {type(program.model).__name__}: {first_line(error)}") from error


def save_onnx(program: DetectorProgram, settings: ExportSettings, path: Path, metadata: Mapping[str, str], *, half: bool = False) -> None:
    """Writes an ONNX file.

    Args:
        half: store weights in half precision. They are computed with in float32: the file is half as large, and as fast.

    Raises:
        ExportError: onnx or onnxscript are missing, the program cannot be exported, or not in this opset.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"{package} is not installed: pip install onnx onnxscript onnxruntime.")
    exported = export_program(program, settings)
    try:
        with torch.no_grad(), quiet():
            onnx_program = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=settings.opset,
                custom_translation_table={operator: form.onnx for operator, form in EXPORT_FORMS.items()},
                input_names=["images", "image_sizes"],
                output_names=list(program.output_names),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch.onnx cannot write {type(program.model).__name__}: {_last_cause(error)}") from error
    assert onnx_program is not None
    written = onnx_program.model.opset_imports[""]
    if written != settings.opset:  # the exporter goes back to what it has without an error
        raise ExportError(
            f"opset is {settings.opset}, but torch {torch.__version__} can write no such file; it wrote {written}. Choose another."
        )
    onnx_program.model.metadata_props.update(metadata)
    onnx_program.save(path)
    if half:
        _halve_weights(path)


def save_torch_export(program: DetectorProgram, settings: ExportSettings, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a ``.pt2`` file of operators of PyTorch and torchvision alone; loading it needs ``import torchvision`` first."""
    exported = export_program(program, settings)
    with torch.no_grad(), quiet():
        exported = exported.run_decompositions({operator: form.plain for operator, form in EXPORT_FORMS.items()})
    torch.export.save(exported, path, extra_files={"metadata.json": json.dumps(dict(metadata))})


def save_torchscript(program: DetectorProgram, settings: ExportSettings, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a TorchScript file by tracing, for the one size and number of images of the settings."""
    assert settings.size is not None and settings.batch is not None
    with torch.no_grad(), quiet(), program.traced_for_one_size():
        traced = torch.jit.trace(program, settings.example(), check_trace=False)
        checked = torch.jit.script(_OneSize(traced, [settings.batch, 3, *settings.size]))
        torch.jit.save(checked, str(path), _extra_files={"metadata.json": json.dumps(dict(metadata))})


class _OneSize(torch.nn.Module):
    """Refuses images of another shape than that of the trace, which would give wrong boxes."""

    def __init__(self, traced: torch.nn.Module, shape: list[int]) -> None:
        super().__init__()
        self.traced, self.shape = traced, shape

    def forward(self, images: torch.Tensor, image_sizes: torch.Tensor) -> Any:
        if list(images.shape) != self.shape:
            raise ValueError(f"this file takes images of the shape {self.shape}, not {list(images.shape)}")
        return self.traced(images, image_sizes)


def _halve_weights(path: Path) -> None:
    """Stores the large float32 weights of an ONNX file as float16, each followed by a cast that runtimes fold when they load it."""
    import onnx

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and values.size >= _LEAST_HALVED:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.save(model, str(path))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _last_cause(error: BaseException) -> str:
    """What an exporter stumbled on; its own error is a page on its steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
