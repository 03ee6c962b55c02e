"""Detections from an exported file, with numpy, Pillow and onnxruntime alone: nothing here imports torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

__all__ = ["OnnxDetections", "OnnxPredictor"]

#: a path; a BGR array (H, W, 3) or a gray one (H, W) of uint8, as ``cv2.imread`` gives them; or a PIL image
ImageLike = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image
#: Pillow's modes with more than 8 bits, which it would clip at 255
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
#: its formats whose files are programs, as in :mod:`detkit.data.reading`, which needs torch
_PROGRAMS = ("EPS", "WMF", "EMF")

#: sides of images are at least so long for files of dynamic size; smaller images are padded
_LEAST_SIDE = 129


@dataclass(frozen=True)
class OnnxDetections:
    """The detections of an image, best first, in pixels of the image as it was given.

    Attributes:
        image_size: (height, width).
        boxes: (N, 4) float32 xyxy.
        scores: (N,) float32.
        classes: (N,) int64.
        class_names: of all classes.
        landmarks: by task (N, V, 2) float32 x, y, of a model that learns it: ``"bbox"`` top, left, bottom, right extreme point,
            ``"segm"`` a polygon, ``"pose"`` keypoints.
        category_ids: numbers of the classes in the json of the dataset that the model was tested on; None: unknown.
        image: on which they were found, as it was given; None: unknown.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    class_names: Sequence[str]
    landmarks: Mapping[str, np.ndarray] = field(default_factory=dict)
    category_ids: Sequence[int] | None = None
    image: Any = None

    def __getitem__(self, rows: Any) -> OnnxDetections:
        """Some of the detections: ``found[found.scores > 0.5]``, ``found[:10]``, or one of them as ``found[3]``."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        landmarks = {task: points[rows] for task, points in self.landmarks.items()}
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], classes=self.classes[rows], landmarks=landmarks)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class of every detection by name."""
        return [self.class_names[index] for index in self.classes]

    def to_coco(self, image_id: int = 0, *, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of COCO's result format.

        Args:
            image_id: of the image in the json that they are compared with.
            category_ids: of the classes, in their order; None: those of the dataset that the model was tested on, where the file knows
                them, else 0, 1, 2, ...
        """
        ids = category_ids or self.category_ids or range(len(self.class_names))
        entries = []
        for i, (x0, y0, x1, y1) in enumerate(self.boxes.tolist()):
            entry: dict[str, Any] = {"image_id": image_id, "category_id": ids[self.classes[i]], "score": float(self.scores[i])}
            entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            if "pose" in self.landmarks:
                entry["keypoints"] = [number for x, y in self.landmarks["pose"][i].tolist() for number in (x, y, entry["score"])]
            if "segm" in self.landmarks:
                entry["segmentation"] = [self.landmarks["segm"][i].reshape(-1).tolist()]
            entries.append(entry)
        return entries

    def draw(self, image: Any = None, *, min_score: float = 0.3) -> Image.Image:
        """A copy of the image with the boxes, names and landmarks of the detections from ``min_score`` on.

        Args:
            image: any kind that the predictor takes; None: the one that they were found on.

        Raises:
            ValueError: the image is unknown, or has another size.
        """
        image = self.image if image is None else image
        if image is None:
            raise ValueError("These detections do not know their image: name it, draw(image).")
        picture = Image.fromarray(np.ascontiguousarray(_read_rgb(image)))
        if picture.size != self.image_size[::-1]:
            size = "{1} x {0}".format(*self.image_size)
            raise ValueError(f"The detections are of an image of {size} pixels, this one has {picture.width} x {picture.height}.")
        pen = ImageDraw.Draw(picture)
        for i in np.flatnonzero(self.scores >= min_score):
            color = _COLORS[self.classes[i] % len(_COLORS)]
            pen.rectangle(self.boxes[i].tolist(), outline=color, width=2)
            pen.text((self.boxes[i, 0] + 3, self.boxes[i, 1] + 2), f"{self.names[i]} {self.scores[i]:.2f}", fill=color)
            for task, of_task in self.landmarks.items():
                points = [tuple(point) for point in of_task[i].tolist()]
                if task == "segm":
                    pen.line([*points, points[0]], fill=color, width=2)
                else:
                    for x, y in points:
                        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
        return picture


_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


class OnnxPredictor:
    """Runs a file that ``tools/export.py`` wrote, resizing images as the model was tested.

    Args:
        file: the ``.onnx`` file.
        providers: of onnxruntime, for instance ``["CUDAExecutionProvider", "CPUExecutionProvider"]``; None: the CPU.
        threads: of onnxruntime on the CPU; None: its own choice.
        min_score: detections below it are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnxruntime is missing.
        ValueError: onnxruntime cannot read the file, it was not written by ``tools/export.py``, or it holds raw outputs.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        if not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {os.fspath(file)!r}. tools/export.py writes one.")
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("onnxruntime is not installed: pip install onnxruntime, or onnxruntime-gpu.") from error
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(file), options, providers=list(providers or ["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime's errors have no common type
            raise ValueError(f"onnxruntime cannot read {os.fspath(file)}: {error}. tools/export.py writes such files.") from error
        stored = self.session.get_modelmeta().custom_metadata_map
        if "detkit_version" not in stored:
            raise ValueError(f"{os.fspath(file)} does not say how images enter it. Write it with tools/export.py.")
        #: what the file says of itself, see :func:`detkit.export.metadata_of`
        self.metadata: dict[str, Any] = {key: _parsed(value) for key, value in stored.items()}
        if self.metadata["raw"]:
            raise ValueError(f"{os.fspath(file)} gives raw outputs. Export it without --raw.")
        self.class_names: list[str] = self.metadata["class_names"]
        tasks = self.metadata["landmarks"] or []
        #: which output holds the landmarks of a task
        self.landmark_outputs = {tasks: "landmarks"} if isinstance(tasks, str) else {task: f"landmarks_{task}" for task in tasks}
        self.min_score = min_score

    @overload
    def __call__(self, images: ImageLike, *, batch_size: int = 1) -> OnnxDetections: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], *, batch_size: int = 1) -> list[OnnxDetections]: ...

    def __call__(self, images: Any, *, batch_size: int = 1) -> OnnxDetections | list[OnnxDetections]:
        """The detections of one image, or a list of them for a list of images.

        Args:
            images: a path; an array (H, W, 3) in the order BGR or (H, W) in gray, of uint8, as OpenCV reads it; a PIL image; or a list of
                these, of any sizes.
            batch_size: images of a list that the model sees at once, padded to one size. A file of a fixed batch takes its own.

        Raises:
            TypeError, ValueError: something that is no image, or a file that cannot be read.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. It has to be 1 or more.")
        at_once = self.metadata["batch"] or batch_size
        results: list[OnnxDetections] = []
        for start in range(0, len(images), at_once):
            given = images[start : start + at_once]
            full = [self._in_input_format(_read_rgb(image)) for image in given]
            found = self.run([self.resized(image) for image in full])
            results += [
                replace(self.scaled(each, pixels.shape[:2]), image=image) for each, pixels, image in zip(found, full, given, strict=True)
            ]
        return results

    def feed(self, images: Sequence[ImageLike]) -> dict[str, np.ndarray]:
        """What the session gets for images of any sizes as one batch, for onnxruntime's own tools, which calibrate on such inputs.

        Args:
            images: where the file has a fixed batch, no more than that; the last one is repeated.
        """
        return self._batch([self.resized(self._in_input_format(_read_rgb(image))) for image in images])

    def run(self, images: Sequence[np.ndarray]) -> list[OnnxDetections]:
        """Detections of images that have the size and channel order in which the network is to see them.

        Args:
            images: (H, W, 3) uint8 in the file's ``input_format``.

        Returns:
            per image the detections in its own pixels.
        """
        at_once = self.metadata["batch"] or max(len(images), 1)
        results = []
        for start in range(0, len(images), at_once):
            group = list(images[start : start + at_once])
            found = self.session.run(None, self._batch(group))
            outputs = dict(zip((output.name for output in self.session.get_outputs()), found, strict=True))
            results += [self._of_image(outputs, i, image.shape[:2]) for i, image in enumerate(group)]
        return results

    def _batch(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        images = [*images, *[images[-1]] * ((self.metadata["batch"] or 0) - len(images))]
        sides = self.metadata["size"] or [max(_LEAST_SIDE, *(image.shape[axis] for image in images)) for axis in (0, 1)]
        batch = np.zeros((len(images), 3, *sides), dtype=np.float32)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        return {"images": batch, "image_sizes": np.array([image.shape[:2] for image in images], dtype=np.int64)}

    def _of_image(self, outputs: dict[str, np.ndarray], i: int, size: tuple[int, ...]) -> OnnxDetections:
        rows = np.arange(int(outputs["counts"][i]))
        rows = rows[outputs["scores"][i, rows] >= self.min_score]
        landmarks = {task: outputs[name][i, rows] for task, name in self.landmark_outputs.items()}
        boxes, scores, classes = (outputs[name][i, rows] for name in ("boxes", "scores", "classes"))
        ids = self.metadata.get("category_ids")
        return OnnxDetections((size[0], size[1]), boxes, scores, classes, self.class_names, landmarks, ids)

    def scaled(self, found: OnnxDetections, size: tuple[int, ...]) -> OnnxDetections:
        """Detections in the pixels of an image of another size, without those below the model's least area."""
        scale = np.array([size[1] / found.image_size[1], size[0] / found.image_size[0]], dtype=np.float32)
        boxes = found.boxes * np.tile(scale, 2)
        large = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > self.metadata["min_area"]
        landmarks = {task: points * scale for task, points in found.landmarks.items()}
        return replace(found, image_size=(size[0], size[1]), boxes=boxes, landmarks=landmarks)[large]

    def _in_input_format(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 in the channel order of the file."""
        return rgb if self.metadata["input_format"] == "RGB" else rgb[:, :, ::-1]

    def resized(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3) in the size in which the network sees it: with the sides of testing, and no larger than the file takes."""
        size = self._input_size(image.shape[:2])
        if image.shape[:2] == size:
            return image
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), Image.Resampling.BILINEAR))

    def _input_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        (height, width), fixed = size[:2], self.metadata["size"]
        scale = 1.0
        if self.metadata["min_size"]:
            scale = min(self.metadata["min_size"] / min(height, width), self.metadata["max_size"] / max(height, width))
        if fixed:
            scale = min(scale, fixed[0] / height, fixed[1] / width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _read_rgb(image: ImageLike) -> np.ndarray:
    """An image of any kind as (H, W, 3) uint8 in the order RGB, turned as its EXIF orientation says."""
    if isinstance(image, np.ndarray):
        return _rgb_of_array(image)
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise TypeError(f"An image is a path, an array or a PIL image, not a {type(image).__name__}.")
    try:
        with contextlib.nullcontext(image) if isinstance(image, Image.Image) else Image.open(image) as opened:
            if opened.format in _PROGRAMS:
                raise ValueError(f"it is a drawing in {opened.format}, which is not run here; convert it to PNG.")
            opened.load()
            if opened.mode in _DEEP_MODES:
                raise ValueError(f"it has more than 8 bits per channel (mode {opened.mode}). Scale it to 0 to 255 first.")
            turned = ImageOps.exif_transpose(opened)
            return np.asarray(turned.convert("RGB"))
    except Exception as error:  # Pillow's formats raise errors of many types for damaged files
        name = "of Pillow" if isinstance(image, Image.Image) else os.fspath(image)
        raise ValueError(f"The image {name} cannot be read: {error}") from error


def _rgb_of_array(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8:
        raise ValueError(f"The image is an array of {image.dtype}. It has to be of uint8, from 0 to 255.")
    if image.ndim == 2 and image.size:
        return np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"The image has the shape {image.shape}. It has to be (H, W, 3) in the order BGR, or (H, W) in gray.")
    return image[:, :, ::-1]


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
