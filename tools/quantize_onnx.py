#!/usr/bin/env python
"""Stores the convolutions of an exported file in 8 bits: a quarter of its size.

python tools/quantize_onnx.py fcos.onnx --images photos/ --output fcos_int8.onnx

By onnxruntime's static quantization: weights in int8 for each channel, activations in uint8, whose ranges are measured on the images, which
should be like those that the detector will see. Then tools/evaluate_onnx.py says what it costs in average precision.
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit import OnnxPredictor

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the file.

    Raises:
        SystemExit: bad input, with one message.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written by tools/export.py, without --fp16")
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="images, or folders of images")
    parser.add_argument("--count", type=int, default=50, help="images that are used at most (default: 50)")
    parser.add_argument("--keep", nargs="*", default=(), metavar="NAME", help="convolutions that stay in float32, such as 'head.*_pred'")
    parser.add_argument("--output", type=Path, help="default: FILE_int8.onnx")
    args = parser.parse_args(argv)
    output = args.output or args.file.with_name(f"{args.file.stem}_int8.onnx")
    try:
        if output.resolve() == args.file.resolve():
            raise ValueError(f"--output {output} is the file itself, which stays as it is: name another one.")
        images = _images(args.images)[: args.count]
        predictor = OnnxPredictor(args.file)
        quantize(predictor, args.file, output, images, keep=args.keep)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    before, after = (path.stat().st_size / 2**20 for path in (args.file, output))
    print(f"{output}: {after:.1f} MiB, before {before:.1f} MiB; ranges of {len(images)} images.")


def quantize(predictor: OnnxPredictor, file: Path, output: Path, images: Sequence[Path], *, keep: Sequence[str] = ()) -> None:
    """Writes a file with convolutions in 8 bits.

    Args:
        predictor: of the file.
        images: on which ranges are measured.
        keep: convolutions that stay as they are, by their names in the model; ``*`` and ``?`` stand for any letters.

    Raises:
        ValueError: there is no convolution of such a name.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = (predictor.feed([image]) for image in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    original = onnx.load(file, load_external_data=False)
    kept = _nodes(original.graph, keep, file)
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=kept,
        )
        model = onnx.load(quantized)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in original.metadata_props})
    partial = output.with_name(f"{output.stem}.partial{output.suffix}")
    try:
        onnx.save(model, partial)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _nodes(graph: Any, patterns: Sequence[str], file: Path) -> list[str]:
    """The convolutions of a graph that patterns name; one whose weights several levels share is several nodes."""
    names = {node.name: node.input[1].removeprefix("model.").removesuffix(".weight") for node in graph.node if node.op_type == "Conv"}
    for pattern in patterns:
        if not fnmatch.filter(names.values(), pattern):
            last = list(dict.fromkeys(names.values()))[-8:]
            raise ValueError(f"--keep {pattern}: {file} has no such convolution. Its last ones are {', '.join(last)}.")
    return [node for node, name in names.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _images(places: Sequence[Path]) -> list[Path]:
    found = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"there is no image or folder '{place}'.")
        found += sorted(path for path in place.iterdir() if path.suffix.lower() in _SUFFIXES) if place.is_dir() else [place]
    if not found:
        raise ValueError(f"there are no images in {', '.join(map(str, places))}.")
    return found


if __name__ == "__main__":
    main()
