"""Where detections go: pictures, videos, COCO's json, a window."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from detkit.checkpoint import write_text_atomically
from detkit.predictor import NamedInstances

from .sources import DemoError, Frame

__all__ = ["CocoFile", "PictureFolder", "Sink", "VideoFile", "Window"]

#: by suffix, what OpenCV's own build writes on every system
_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
#: formats that Pillow writes from RGB; others become .jpg
_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Sink(Protocol):
    """Takes what was found, in the order of the frames."""

    #: whether ``write`` needs the drawing
    draws: bool

    def write(self, frame: Frame, instances: NamedInstances, drawing: np.ndarray | None) -> None:
        """``drawing``: (H, W, 3) RGB with the detections, where the sink draws."""

    def close(self) -> None:
        """Finishes the output; what was written so far stays, also after an interruption."""


class PictureFolder:
    """A picture with its detections for every one that was read, in a folder.

    Args:
        folder: made if it is missing. Names and folders below it are those of the pictures below the folder that all share.
        file: the name of the one picture; None: its own.
    """

    draws = True

    def __init__(self, folder: Path, *, file: str | None = None) -> None:
        self.folder, self._file = folder, file
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, frame: Frame, instances: NamedInstances, drawing: np.ndarray | None) -> None:
        """Writes the drawing, whole or not at all."""
        assert drawing is not None
        path = self.folder / (self._file or self.name_of(frame.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        try:
            Image.fromarray(drawing).save(unfinished, quality=92)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @staticmethod
    def name_of(name: str) -> str:
        """Of the picture that is written for one that was read."""
        return name if Path(name).suffix.lower() in _WRITTEN else f"{name}.jpg"

    def close(self) -> None:
        """Nothing is left to do."""


class VideoFile:
    """A video with detections, of the size of its frames.

    Args:
        path: ends in .mp4, .mov, .mkv or .avi.
        fps: frames per second.

    Raises:
        DemoError: another suffix.
    """

    draws = True

    def __init__(self, path: Path, *, fps: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise DemoError(f"--output '{path}': a video ends in {', '.join(_CODECS)}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._fps = path, fps
        self._unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: Frame, instances: NamedInstances, drawing: np.ndarray | None) -> None:
        """Adds a frame."""
        assert drawing is not None
        if self._writer is None:
            self._size = drawing.shape[1], drawing.shape[0]
            codec = cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._unfinished), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise DemoError(f"--output '{self.path}': OpenCV cannot write this video here. Try the suffix .avi.")
        self._writer.write(np.ascontiguousarray(drawing[..., ::-1]))

    def close(self) -> None:
        """Ends the file, which then takes its name."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._unfinished, self.path)


class CocoFile:
    """One json in COCO's format: images, categories, and detections as annotations with a score. Frames of a video are images with
    ``frame``, their number.

    Args:
        path: of the file.
    """

    draws = False

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: list[dict[str, Any]] = []

    def write(self, frame: Frame, instances: NamedInstances, drawing: np.ndarray | None) -> None:
        """Adds the detections of a frame."""
        image_id = len(self._images) + 1
        height, width = frame.pixels.shape[:2]
        image: dict[str, Any] = {"id": image_id, "file_name": frame.name, "height": height, "width": width}
        self._images.append(image if frame.number is None else image | {"frame": frame.number})
        ids = instances.category_ids or list(range(1, len(instances.class_names) + 1))
        self._categories = self._categories or [{"id": i, "name": name} for i, name in zip(ids, instances.class_names, strict=True)]
        for entry in instances.to_coco(image_id, category_ids=ids):
            area = entry["bbox"][2] * entry["bbox"][3]
            self._annotations.append({"id": len(self._annotations) + 1, **entry, "area": area, "iscrowd": 0})

    def close(self) -> None:
        """Writes the file, whole or not at all."""
        content = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        write_text_atomically(self.path, json.dumps(content))


class Window:
    """Shows what is found. A key goes to the next picture; Esc ends.

    Raises:
        DemoError: there is no display, or this OpenCV (opencv-python-headless) has no windows.
    """

    draws = True
    _TITLE = "detections"

    def __init__(self) -> None:
        try:
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL)
        except cv2.error:
            raise DemoError(
                "There is no window to show pictures in: no display, or an OpenCV without windows (opencv-python-headless). Name an "
                "--output: a folder, a video or a .json."
            ) from None

    def write(self, frame: Frame, instances: NamedInstances, drawing: np.ndarray | None) -> None:
        """Shows a frame."""
        assert drawing is not None
        cv2.imshow(self._TITLE, drawing[..., ::-1])
        if cv2.waitKey(0 if frame.number is None else 1) == 27:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Closes the window."""
        with contextlib.suppress(cv2.error):
            cv2.destroyWindow(self._TITLE)
