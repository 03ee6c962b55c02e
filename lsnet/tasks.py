"""The tasks: which landmarks are learned, how they are found in annotations, and what detections and pictures are made of them.
Several at once: :mod:`lsnet.several_tasks`.

The interface between data and network:

- training targets arrive as Detectron2 ``Instances`` with ``gt_boxes`` (N, 4), the box by which objects are assigned, see
  :attr:`Task.box_source`; ``gt_classes`` (N,); ``gt_landmarks`` (N, V, 3), the task's landmarks as x, y in pixels of the network's input
  and visibility (0: not labeled, its position means nothing), those of several tasks one behind the other. Every set of landmarks has
  one vector more, the center of ``gt_boxes``, which is not stored.
- detections leave the network with ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_landmarks`` (N, V, 2), x, y in pixels of the
  network's input, of the second stage. :meth:`Task.finish` makes from these what users expect (masks, keypoints).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from detkit.config import ConfigError
from detkit.geometry import fill_polygons
from detkit.host import send
from detkit.tta import Averaged, Derived, FieldRule, ScoredPoints, mirror_points

from .finders import BoxSource, ContourFinder, ExtremePointFinder, KeypointFinder, LandmarkFinder
from .landmarks import LandmarkSet, SideMiddles

__all__ = ["BoxTask", "ContourTask", "PoseTask", "Task"]

#: an array or tensor
T = TypeVar("T", Tensor, NDArray[np.float64])

#: top, left, bottom, right of a mirrored object
_MIRRORED_EXTREMES = (0, 3, 2, 1)


class Task(ABC):
    """What LSNet learns, and everything in which it differs for that.

    Args:
        landmarks: what is asked for; its deformable kernel also serves the classification.
        box_landmarks: the set whose boxes are assigned and suppress each other; None: ``landmarks`` itself. A second set beside
            ``landmarks`` learns boxes (poses by object boxes).
        box_source: which box ``gt_boxes`` is, see :data:`lsnet.finders.BoxSource`.
    """

    #: in ``MODEL.LSNET.TASKS``
    name: str
    #: whether objects of which no landmark of a set is known leave it alone: its losses, and what these are divided by
    skips_unknown: bool = False
    #: values of ``MODEL.LSNET.LOSS.VECTOR`` from which its landmarks learn their places
    vector_losses: tuple[str, ...] = ("cross_iou", "smooth_l1", "giou")

    def __init__(self, landmarks: LandmarkSet, box_landmarks: LandmarkSet | None = None, *, box_source: BoxSource = "object") -> None:
        self.landmarks = landmarks
        self.box_landmarks = box_landmarks or landmarks
        self.box_source = box_source

    @property
    def sets(self) -> tuple[LandmarkSet, ...]:
        """All sets that the head regresses."""
        return (self.landmarks,) if self.box_landmarks is self.landmarks else (self.box_landmarks, self.landmarks)

    @property
    def parts(self) -> tuple[Task, ...]:
        """The single tasks, in the order in which their landmarks lie in ``gt_landmarks`` and ``pred_landmarks``."""
        return (self,)

    def split(self, landmarks: T) -> dict[str, T]:
        """The landmarks (..., V, n) of every single task by its name, of those of all.

        Raises:
            ValueError: they are not as many as the tasks have.
        """
        total = sum(part.landmarks.num_landmarks for part in self.parts)
        if landmarks.shape[-2] != total:
            raise ValueError(
                f"{landmarks.shape[-2]} landmarks are given, but {self.name} has {total}: let the config of the data and that of the model "
                "have the same MODEL.LSNET.TASKS, CONTOUR_LANDMARKS and NUM_KEYPOINTS."
            )
        found, start = {}, 0
        for part in self.parts:
            found[part.name] = landmarks[..., start : start + part.landmarks.num_landmarks, :]
            start += part.landmarks.num_landmarks
        return found

    def tower_of(self, landmarks: LandmarkSet) -> str:
        """The name of the tower on whose features the head regresses a set."""
        return landmarks.name

    @abstractmethod
    def finder(self, dataset_names: Sequence[str]) -> LandmarkFinder:
        """What finds the landmarks in the annotations of datasets, given by their registered names."""

    def finish(self, detections: Instances, input_size: tuple[int, int]) -> Instances:
        """Detections with the task's fields in the place of the landmarks, in pixels of the original image.

        Args:
            detections: with ``pred_landmarks`` (N, V, 2), after Detectron2's ``detector_postprocess``, which scales boxes, but not
                landmarks. ``first_landmarks``, those of the first stage, are left out.
            input_size: (height, width) of the network's input without padding, in whose pixels the landmarks are given.
        """
        kept = detections.get_fields()
        landmarks = kept.pop("pred_landmarks")
        kept.pop("first_landmarks", None)
        result = Instances(detections.image_size, **kept)
        (height, width), (input_height, input_width) = detections.image_size, input_size
        self.set_fields(result, landmarks * send(np.asarray([width / input_width, height / input_height], np.float32), landmarks.device))
        return result

    @abstractmethod
    def set_fields(self, detections: Instances, landmarks: Tensor) -> None:
        """Adds the task's fields, of landmarks (N, V, 2) in pixels of the original image, to detections."""

    @abstractmethod
    def merge_rules(self) -> dict[str, FieldRule | type[Averaged]]:
        """How multi-scale testing merges these fields."""

    @abstractmethod
    def draw(self, visualizer: Any, points: NDArray[np.float64], color: str) -> None:
        """Draws the landmarks (V, 2), or (V, 3) with visibility, of one object with Detectron2's ``Visualizer``."""


class BoxTask(Task):
    """Boxes by extreme points. Detections have ``pred_extreme_points`` (N, 4, 2): top, left, bottom, right."""

    name = "bbox"

    def finder(self, dataset_names: Sequence[str]) -> LandmarkFinder:
        return ExtremePointFinder()

    def set_fields(self, detections: Instances, landmarks: Tensor) -> None:
        detections.pred_extreme_points = landmarks

    def merge_rules(self) -> dict[str, FieldRule | type[Averaged]]:
        return {"pred_extreme_points": Averaged(mirror_points(_MIRRORED_EXTREMES))}

    def draw(self, visualizer: Any, points: NDArray[np.float64], color: str) -> None:
        _draw_outline(visualizer, points, color, large=(0, 1, 2, 3))


class ContourTask(Task):
    """Masks by contours. Detections have ``pred_polygons`` (N, V, 2), and ``pred_masks`` (N, H, W) bool, what these polygons enclose.

    Args:
        landmarks: the contour.
        box_source: ``"contour"`` or ``"object"``.
        box_stands_in: whether objects without a mask learn the outline of their box.
    """

    name = "segm"
    vector_losses = ("cross_iou", "smooth_l1")

    def __init__(self, landmarks: LandmarkSet, *, box_source: BoxSource = "contour", box_stands_in: bool = True) -> None:
        super().__init__(landmarks, box_source=box_source)
        self.box_stands_in = box_stands_in

    def finder(self, dataset_names: Sequence[str]) -> LandmarkFinder:
        return ContourFinder(self.landmarks.num_landmarks, box_source=self.box_source, box_stands_in=self.box_stands_in)

    def set_fields(self, detections: Instances, landmarks: Tensor) -> None:
        detections.pred_polygons = landmarks
        detections.pred_masks = _masks_of(detections)

    def merge_rules(self) -> dict[str, FieldRule | type[Averaged]]:
        count = self.landmarks.num_landmarks
        return {"pred_polygons": Averaged(mirror_points([-i % count for i in range(count)])), "pred_masks": Derived(_masks_of)}

    def draw(self, visualizer: Any, points: NDArray[np.float64], color: str) -> None:
        _draw_outline(visualizer, points, color, large=(0,))


class PoseTask(Task):
    """Poses by keypoints. Detections have ``pred_keypoints`` (N, V, 3): x, y and the score of the detection, since keypoints have no score
    of their own.

    Args:
        landmarks: the keypoints.
        box_source: ``"object"``: boxes are learned beside the keypoints, as the middles of their sides; ``"keypoints"``: the box is what
            the keypoints span.
    """

    name = "pose"
    vector_losses = ("cross_iou", "smooth_l1")

    def __init__(self, landmarks: LandmarkSet, *, box_source: BoxSource = "object") -> None:
        super().__init__(landmarks, SideMiddles() if box_source == "object" else None, box_source=box_source)

    def finder(self, dataset_names: Sequence[str]) -> LandmarkFinder:
        """Needs datasets that name their keypoints.

        Raises:
            ConfigError: a dataset without keypoints, or with another number of them than the task has.
        """
        for name in dataset_names:
            found, count = len(MetadataCatalog.get(name).get("keypoint_names", ())), self.landmarks.num_landmarks
            if found != count:
                raise ConfigError(
                    f"'pose' of MODEL.LSNET.TASKS learns {count} keypoints (MODEL.LSNET.NUM_KEYPOINTS), but the dataset {name} names "
                    f"{found} ('keypoints' of a category in its annotations). Set the key to that number, or take another dataset or task."
                )
        return KeypointFinder(create_keypoint_hflip_indices(list(dataset_names)), box_source=self.box_source)

    def set_fields(self, detections: Instances, landmarks: Tensor) -> None:
        scores = detections.scores[:, None, None].expand(-1, landmarks.shape[1], 1)
        detections.pred_keypoints = torch.cat([landmarks, scores.to(landmarks.dtype)], dim=-1)

    def merge_rules(self) -> dict[str, FieldRule | type[Averaged]]:
        """Which keypoints change places in a mirrored image is known from the dataset's metadata."""
        return {"pred_keypoints": ScoredPoints}

    def draw(self, visualizer: Any, points: NDArray[np.float64], color: str) -> None:
        visible = points[:, 2:] if points.shape[1] > 2 else np.ones((len(points), 1))
        visualizer.draw_and_connect_keypoints(np.concatenate([points[:, :2], visible], axis=1))


def _masks_of(detections: Instances) -> Tensor:
    """(N, H, W) of the whole image: what the polygons enclose."""
    return fill_polygons(detections.pred_polygons, *detections.image_size)


def _draw_outline(visualizer: Any, points: NDArray[np.float64], color: str, *, large: tuple[int, ...]) -> None:
    """A polygon with its points (V, 2 or 3), some of them larger; nothing of an object of which no point is known (visibility 0)."""
    if points.shape[1] > 2 and not points[:, 2].any():
        return
    visualizer.draw_polygon(points[:, :2], color, alpha=0.3)
    for index, point in enumerate(points[:, :2]):
        visualizer.draw_circle(point, color, radius=(3 if index in large else 1.2) / visualizer.output.scale)
