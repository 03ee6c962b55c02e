"""Pictures of landmarks: the objects of an image, what the first stage finds, and what the second makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detkit.visualization.pictures import canvas
from detkit.visualization.style import CATEGORICAL

from .detector import LSNet
from .mapper import LandmarkMapper
from .tasks import Task

__all__ = ["detect_with_stages", "draw_landmarks", "labeled_input", "stages_figure"]


def labeled_input(cfg: CfgNode, record: dict[str, Any]) -> dict[str, Any]:
    """An image in the size of evaluation, with its objects' ``gt_landmarks``, as the model of the config takes it."""
    parts = LandmarkMapper.from_config(cfg, is_train=True)
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return LandmarkMapper(**{**parts, "augmentations": [resize]})(record)


@torch.no_grad()
def detect_with_stages(model: LSNet, image: torch.Tensor, *, score_thresh: float = 0.3) -> Instances:
    """Detections in pixels of the network's input, each with ``pred_landmarks`` and the ``first_landmarks`` they came from.

    Args:
        model: in evaluation mode.
        image: (C, H, W) in the order of ``INPUT.FORMAT``.
        score_thresh: the least score.
    """
    images = model.preprocess_image([{"image": image}])
    (found,) = model.detect(model.predict(images), images.image_sizes)
    return found[found.scores >= score_thresh].to("cpu")


def draw_landmarks(image: NDArray[np.uint8], landmarks: NDArray[np.float64], task: Task, metadata: Any = None) -> NDArray[np.uint8]:
    """An RGB image with the landmarks (N, V, 2), or (N, V, 3) with visibility, of N objects.

    Args:
        metadata: of the dataset; for poses its ``keypoint_names`` and ``keypoint_connection_rules`` are needed.
    """
    visualizer = canvas(image, metadata)
    for number, points in enumerate(landmarks):
        task.draw(visualizer, points, CATEGORICAL[number % len(CATEGORICAL)])
    return visualizer.output.get_image()


def stages_figure(inputs: dict[str, Any], found: Instances | None, task: Task, *, image_format: str, dataset_name: str) -> Figure:
    """The objects beside the landmarks of both stages.

    Args:
        inputs: see :func:`labeled_input`.
        found: see :func:`detect_with_stages`; None: the objects alone.
        image_format: ``INPUT.FORMAT``.
        dataset_name: as registered; gives the names of keypoints.
    """
    image = np.ascontiguousarray(inputs["image"].numpy().transpose(1, 2, 0))
    image = image[..., ::-1] if image_format == "BGR" else image
    panels = {"objects": inputs["instances"].gt_landmarks}
    if found is not None:
        panels |= {"first stage": found.first_landmarks, "second stage": found.pred_landmarks}
    figure = Figure(figsize=(5 * len(panels), 5 * image.shape[0] / image.shape[1] + 0.4), layout="constrained")
    for axes, (title, landmarks) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.imshow(draw_landmarks(image, landmarks.double().numpy(), task, MetadataCatalog.get(dataset_name)))
        axes.set_title(title)
        axes.axis("off")
    return figure
