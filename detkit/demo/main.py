"""The command line of the demo."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .models import load_model
from .pipeline import detect_all
from .sinks import _CODECS, CocoFile, PictureFolder, Sink, VideoFile, Window
from .sources import Camera, DemoError, Pictures, Video, find_pictures

__all__ = ["run"]

_EPILOG = """
detkit-demo --config-file quick_fcos_shapes --input photos/ --output out/
detkit-demo --config-file output/raccoon --input 'photos/*.jpg' --output out/ out/detections.json
detkit-demo --config-file configs/fcos/fcos_R_50_FPN_1x.yaml --weights FCOS_R_50_1x.pth --video-input clip.mp4 --output out/clip.mp4
detkit-demo --weights fcos.onnx --webcam --confidence-threshold 0.6
"""


def run(argv: Sequence[str] | None = None) -> None:
    """Reads a command line with the arguments of Detectron2's demo, predicts, and writes.

    Raises:
        SystemExit: bad input, with one line; pictures that could not be read, when the others are done.
    """
    args = _parser().parse_args(argv)
    try:
        source = _source(args)
        # before the model is loaded, which takes longer
        outputs = [_sink(Path(output).expanduser(), source) for output in args.output or ()] or [Window()]
        if not 0 <= args.confidence_threshold <= 1:
            raise DemoError(f"--confidence-threshold is {args.confidence_threshold:g}. It has to be from 0 to 1.")
        predict = load_model(args.config_file, args.weights, args.opts, batch_size=args.batch_size)
        _run(source, predict, outputs, args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit("error: " + "; ".join(line.strip() for line in str(error).splitlines() if line.strip()))
    if source.problems:
        sys.exit("\n".join([f"error: {len(source.problems)} could not be read:", *source.problems]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Detections on pictures, a video or a camera.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", metavar="MODEL", help="a name of the model zoo, a config file, or the folder of a run or of a shared model"
    )
    parser.add_argument("--weights", help="a file of weights, an address, or an exported .onnx file; default: those of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="pictures: files, folders or patterns such as 'photos/*.jpg'")
    source.add_argument("--video-input", type=Path, metavar="FILE")
    source.add_argument("--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="a camera of this machine (default: 0)")
    parser.add_argument(
        "--output",
        nargs="+",
        help=f"a folder, a picture for one --input, a video ({', '.join(_CODECS)}), COCO's .json, or several of them; default: a window",
    )
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="least score of what is shown and written (default: 0.5)")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures that the model sees at once (default: 1)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides of config keys, at the end")
    return parser


def _source(args: argparse.Namespace) -> Pictures | Video | Camera:
    if args.batch_size < 1:
        raise DemoError(f"--batch-size is {args.batch_size}. It has to be 1 or more.")
    if args.input:
        return Pictures(find_pictures(args.input))
    return Video(args.video_input.expanduser()) if args.video_input else Camera(args.webcam)


def _sink(output: Path, source: Pictures | Video | Camera) -> Sink:
    suffix = output.suffix.lower()
    if output.is_dir():
        suffix = ""
    if suffix == ".json":
        return CocoFile(output)
    if isinstance(source, Pictures):
        if suffix in _CODECS:
            raise DemoError(f"--output '{output}': pictures make no video. Name a folder, or a .json.")
        if suffix and len(source) > 1:
            raise DemoError(f"--output '{output}': {len(source)} pictures need a folder.")
        return _pictures(output.parent, source, output.name) if suffix else _pictures(output, source, None)
    if not suffix:
        name = source.name if isinstance(source, Video) else "camera.mp4"
        output = output / (name if Path(name).suffix.lower() in _CODECS else f"{Path(name).stem}.mp4")
    if isinstance(source, Video) and output.resolve() == source.path.resolve():
        raise DemoError(f"--output '{output}' would overwrite what is read. Name another file.")
    return VideoFile(output, fps=source.fps)


def _pictures(folder: Path, source: Pictures, file: str | None) -> PictureFolder:
    if file and Path(file).suffix.lower() not in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"):
        raise DemoError(f"--output '{folder / file}': a picture ends in .jpg or .png, for instance.")
    names = [file] if file else [path.absolute().relative_to(source.root).as_posix() for path in source.paths]
    taken = {path.resolve() for path in source.paths}
    if any((folder / PictureFolder.name_of(name)).resolve() in taken for name in names):
        raise DemoError(f"--output '{folder}' would overwrite what is read. Name another folder.")
    return PictureFolder(folder, file=file)


def _run(source: Pictures | Video | Camera, predict: object, outputs: Sequence[Sink], args: argparse.Namespace) -> None:
    total = None if isinstance(source, Camera) else len(source) or None
    start = time.perf_counter()
    with tqdm(total=total, unit="img", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        count = detect_all(
            source,
            predict,  # type: ignore[arg-type]
            outputs,
            min_score=args.confidence_threshold,
            batch_size=args.batch_size,
            progress=bar.update,
        )
    seconds = time.perf_counter() - start
    where = f" Written to {', '.join(args.output)}." if args.output else ""
    print(f"{count} of {total} images, {count / seconds:.1f} a second.{where}" if total else f"{count} images.{where}")
