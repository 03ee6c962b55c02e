"""From the landmarks of detections to what users of Detectron2 expect: masks, keypoints, extreme points."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

from detkit.geometry import fill_polygons
from detkit.tta import Averaged, Derived, FieldRule, ScoredPoints, mirror_points

from .tasks import Task

__all__ = ["merge_rules", "with_task_outputs"]

#: top, left, bottom, right of a mirrored object
_MIRRORED_EXTREMES = (0, 3, 2, 1)


def with_task_outputs(detections: Instances, task: Task, input_size: tuple[int, int]) -> Instances:
    """Replaces the landmarks by the fields of the task, in pixels of the original image.

    ==========  ===================================================================================================
    task        fields
    ==========  ===================================================================================================
    ``bbox``    ``pred_extreme_points`` (N, 4, 2): top, left, bottom, right
    ``segm``    ``pred_polygons`` (N, V, 2), and ``pred_masks`` (N, H, W) bool, what these polygons enclose
    ``pose``    ``pred_keypoints`` (N, V, 3): x, y and the score of the detection, since keypoints have none of their own
    ==========  ===================================================================================================

    Args:
        detections: with ``pred_landmarks`` (N, V, 2), after Detectron2's ``detector_postprocess``, which scales boxes, but not landmarks.
            ``first_landmarks``, those of the first stage, are left out.
        task: what the landmarks are.
        input_size: (height, width) of the network's input without padding, in whose pixels the landmarks are given.
    """
    fields = detections.get_fields()
    landmarks = fields.pop("pred_landmarks")
    fields.pop("first_landmarks", None)
    result = Instances(detections.image_size, **fields)
    (height, width), (input_height, input_width) = detections.image_size, input_size
    landmarks = landmarks * landmarks.new_tensor([width / input_width, height / input_height])
    if task.name == "bbox":
        result.pred_extreme_points = landmarks
    elif task.name == "segm":
        result.pred_polygons = landmarks
        result.pred_masks = _masks_of(result)
    else:
        scores = result.scores[:, None, None].expand(-1, landmarks.shape[1], 1)
        result.pred_keypoints = torch.cat([landmarks, scores.to(landmarks.dtype)], dim=-1)
    return result


def merge_rules(task: Task) -> dict[str, FieldRule | type[Averaged]]:
    """How multi-scale testing merges the fields of a task. Which keypoints change places in a mirrored image, the dataset says."""
    if task.name == "bbox":
        return {"pred_extreme_points": Averaged(mirror_points(_MIRRORED_EXTREMES))}
    if task.name == "segm":
        count = task.landmarks.num_landmarks
        return {"pred_polygons": Averaged(mirror_points([-i % count for i in range(count)])), "pred_masks": Derived(_masks_of)}
    return {"pred_keypoints": ScoredPoints}


def _masks_of(detections: Instances) -> Tensor:
    """(N, H, W) of the whole image."""
    return fill_polygons(detections.pred_polygons, *detections.image_size)
