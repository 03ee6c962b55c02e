"""Where pictures come from: files, folders and patterns; videos; cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detkit.data import DataError
from detkit.predictor import read_bgr

__all__ = ["Camera", "DemoError", "Frame", "Pictures", "Video", "find_pictures"]


class DemoError(ValueError):
    """Input or output that cannot be used. The message names it and the remedy."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        pixels: (H, W, 3) BGR of uint8.
        name: of the file, relative to the folder that all of them share; of a video or a camera, its name.
        number: of the frame in a video, from 0; None for a picture.
    """

    pixels: np.ndarray
    name: str
    number: int | None = None


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The picture files that words of a command line mean, each once, in their order.

    Args:
        inputs: files; folders, of which all pictures at any depth are taken; or patterns as ``"photos/*.jpg"``.

    Raises:
        DemoError: a word means no file.
    """
    found: dict[Path, None] = {}
    for word in inputs:
        path = Path(word).expanduser()
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.is_file() and _is_picture(each))
        elif path.is_file():
            files = [path]
        else:
            files = [Path(each) for each in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(each)]
        if not files:
            what = "holds no pictures" if path.is_dir() else "is no file, and as a pattern it means none"
            raise DemoError(f"--input '{word}' {what}. Pictures end in {', '.join(_SUFFIXES[:6])} and the like.")
        found |= dict.fromkeys(files)
    return list(found)


#: common ones first; all that Pillow reads
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".webp", *sorted(Image.registered_extensions()))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


class Pictures:
    """Picture files. Those that cannot be read are left out and remembered.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.root = Path(os.path.commonpath([path.absolute().parent for path in self.paths]))
        #: message of every file that could not be read
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for path in self.paths:
            try:
                yield Frame(read_bgr(path, deep_images="own_range"), path.absolute().relative_to(self.root).as_posix())
            except DataError as error:
                self.problems.append(str(error))


class _Captured:
    """Frames of OpenCV's ``VideoCapture``."""

    def __init__(self, source: str | int, name: str, missing: str) -> None:
        self.name = name
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise DemoError(missing)
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 30.0
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        try:
            while True:
                there, pixels = self._capture.read()
                if not there:
                    return
                yield Frame(pixels, self.name, number)
                number += 1
        finally:
            self._capture.release()


class Video(_Captured):
    """A video file.

    Raises:
        DemoError: it is missing, or OpenCV cannot read it.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DemoError(f"--video-input: there is no file '{path}'.")
        super().__init__(str(path), path.name, f"--video-input: '{path}' is no video that OpenCV can read.")
        self.path = path
        self._count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def __len__(self) -> int:
        return max(self._count, 0)

    def __iter__(self) -> Iterator[Frame]:
        number = -1
        for frame in super().__iter__():
            number = frame.number or 0
            yield frame
        if number < 0:
            self.problems.append(f"'{self.name}' holds no frame that can be read.")


class Camera(_Captured):
    """A camera of this machine. It has no end: the program ends with Ctrl-C, or with Esc in its window.

    Raises:
        DemoError: there is none of that number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, f"camera {number}", f"--webcam: this machine has no camera {number}, or it is in use.")


#: what a demo can read from
Source = Pictures | Video | Camera | Iterable[Frame]
