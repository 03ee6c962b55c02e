"""Several tasks at once, and the task that a config asks for.

The paper learns each task with a detector of its own. Here one detector learns several, so that one forward pass gives boxes, masks and
keypoints of the same objects:

- One tower for classes and one for all sets of landmarks; what follows the towers is there once for every set.
- One box and one assignment. The box is that of the first task of :data:`ORDER` that is learned: its extreme points or, beside keypoints,
  the middles of its sides. By it objects are assigned to locations, in the second stage by the boxes of the first, for all tasks alike: a
  detection is one location, and its mask and keypoints have to be those of the object whose class and box it gives. The classes see the
  features at the landmarks of the box, which every object has.
- An object without a mask, or without a labeled keypoint, learns all that is known of it. It takes no part in the loss of the task, and
  does not count in what that is divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from detkit.config import Section
from detkit.tta import Averaged, FieldRule

from .config import check_config
from .finders import JoinedFinder, LandmarkFinder
from .landmarks import BoxSides, Contour, ExtremePoints, Keypoints, LandmarkSet
from .tasks import BoxTask, ContourTask, PoseTask, Task

__all__ = ["ORDER", "SeveralTasks", "build_task"]

#: in which several tasks stand, whatever their order in the config; the first gives the boxes
ORDER = ("bbox", "pose", "segm")


class SeveralTasks(Task):
    """What several tasks learn and find, each by itself.

    Args:
        parts: two or more of different names, the first of which gives the boxes.
    """

    skips_unknown = True

    def __init__(self, parts: Sequence[Task]) -> None:
        boxes = parts[0].box_landmarks
        super().__init__(boxes, box_source=parts[0].box_source)
        self._parts = tuple(parts)
        own = tuple(part.landmarks for part in parts)
        self._sets = own if boxes in own else (boxes, *own)
        self.name = "+".join(part.name for part in parts)
        self.vector_losses = tuple(loss for loss in Task.vector_losses if all(loss in part.vector_losses for part in parts))

    @property
    def sets(self) -> tuple[LandmarkSet, ...]:
        return self._sets

    @property
    def parts(self) -> tuple[Task, ...]:
        return self._parts

    def tower_of(self, landmarks: LandmarkSet) -> str:
        return self.box_landmarks.name

    def finder(self, dataset_names: Sequence[str]) -> LandmarkFinder:
        return JoinedFinder([part.finder(dataset_names) for part in self._parts])

    def set_fields(self, detections: Instances, landmarks: Tensor) -> None:
        of_parts = self.split(landmarks)
        for part in self._parts:
            part.set_fields(detections, of_parts[part.name])

    def merge_rules(self) -> dict[str, FieldRule | type[Averaged]]:
        return {name: rule for part in self._parts for name, rule in part.merge_rules().items()}

    def draw(self, visualizer: Any, points: NDArray[np.float64], color: str) -> None:
        of_parts = self.split(points)
        for part in self._parts:
            part.draw(visualizer, of_parts[part.name], color)


def build_task(cfg: CfgNode) -> Task:
    """What ``cfg.MODEL.LSNET`` asks for: one task, or several.

    Raises:
        ConfigError: a key of ``MODEL.LSNET`` has a value that cannot be; names the key, the value and what is allowed.
    """
    check_config(cfg)
    section = Section(cfg, "MODEL.LSNET")
    several = len(section.TASKS) > 1
    builders: dict[str, Callable[[], Task]] = {
        "bbox": lambda: BoxTask(section.choice("BOX_STYLE", {"extreme": ExtremePoints, "rectangle": BoxSides})()),
        "segm": lambda: ContourTask(
            Contour(section.CONTOUR_LANDMARKS), box_source="object" if several else section.SEGM_BOX, box_stands_in=not several
        ),
        "pose": lambda: PoseTask(Keypoints(section.NUM_KEYPOINTS), box_source=section.POSE_BOX),
    }
    parts = [builders[name]() for name in ORDER if name in section.TASKS]
    return SeveralTasks(parts) if several else parts[0]
