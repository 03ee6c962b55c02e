"""What the golden cases of LSNet have in common: comparing every array once, our model for a case, its objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detkit.config import get_cfg
from lsnet.tasks import ContourTask, PoseTask, Task

from .cases import GoldenCase
from .compare import Recorder
from .sources import CONFIGS

__all__ = ["ComparedArrays", "cfg_of", "head_of", "objects_of"]


class ComparedArrays:
    """Reads the arrays of a case and remembers which."""

    def __init__(self, case: GoldenCase, recorder: Recorder) -> None:
        self.case, self.recorder, self.seen = case, recorder, set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self.case.arrays

    def tensor(self, name: str) -> Tensor:
        self.seen.add(name)
        return self.case.tensor(name)

    def close(self, quantity: str, name: str, actual: Tensor, **options: Any) -> None:
        self.recorder.close(quantity, name, actual, self.tensor(name), **options)

    def equal(self, name: str, actual: Tensor) -> None:
        self.recorder.equal(name, actual.long(), self.tensor(name))

    def check_all_seen(self) -> None:
        left = set(self.case.arrays) - self.seen
        assert not left, f"{self.case.id}: not compared: {sorted(left)}"


def head_of(case: GoldenCase) -> dict[str, Any]:
    """The settings of the official head."""
    hyper = case.hyperparameters
    return hyper["model"]["bbox_head"] if "model" in hyper else hyper["head"] | {"num_classes": hyper["num_classes"]}


def cfg_of(case: GoldenCase) -> CfgNode:
    """The config of our model for a case."""
    head = head_of(case)
    task = head.get("task", "bbox")
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "lsnet" / "lsnet_R_50_FPN_2x_ms.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    node = cfg.MODEL.LSNET
    learned = task.partition("_")[0]
    node.TASKS, node.POSE_BOX = [learned], "keypoints" if task == "pose_kbox" else "object"
    node.NUM_CLASSES = head["num_classes"]
    node.HEAD.CHANNELS, node.HEAD.NUM_CONVS = head["feat_channels"], head["stacked_convs"]
    node.HEAD.DEFORMABLE_TOWERS, node.HEAD.GRADIENT_SHARE = head["conv_module_type"] == "dcn", head["gradient_mul"]
    node.CPV.ENABLED = head["type"] == "LSCPVHead"
    if learned == "segm":
        node.CONTOUR_LANDMARKS = head["num_vectors"]
    init, refine = head["train_cfg"]["init"]["assigner"], head["train_cfg"]["refine"]["assigner"]
    cfg.MODEL.ASSIGNERS.CENTROID.SCALE, cfg.MODEL.ASSIGNERS.CENTROID.NUM_POINTS = float(init["scale"]), init["pos_num"]
    cfg.MODEL.ASSIGNERS.CENTROID.MIDDLE = init["iou_type"]
    cfg.MODEL.ASSIGNERS.ATSS.TOPK = refine["topk"]
    main = "loss_" + learned
    node.LOSS.INIT_WEIGHT, node.LOSS.REFINE_WEIGHT = head[f"{main}_init"]["loss_weight"], head[f"{main}_refine"]["loss_weight"]
    if task == "pose_bbox":
        node.LOSS.BOX_FACTOR = head["loss_bbox_init"]["loss_weight"] / node.LOSS.INIT_WEIGHT
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = head["loss_cls"]["alpha"], head["loss_cls"]["gamma"]
    test = head["test_cfg"]
    node.TEST.TOPK_PER_LEVEL, node.TEST.NMS_THRESH = test["nms_pre"], test["nms"]["iou_thr"]
    cfg.TEST.DETECTIONS_PER_IMAGE = test["max_per_img"]
    if learned == "pose":
        node.TEST.MIN_AREA = 1024.0
    return cfg


def objects_of(compared: ComparedArrays, task: Task, num_images: int) -> list[Instances]:
    """The objects of a case, as the mapper hands them over."""
    found = []
    for i in range(num_images):
        boxes, classes = compared.tensor(f"gt_boxes{i}").reshape(-1, 4), compared.tensor(f"gt_labels{i}").reshape(-1)
        landmarks = _landmarks(compared, task, i)
        if task.box_source == "contour":
            boxes = torch.cat([landmarks[..., :2].amin(1), landmarks[..., :2].amax(1)], dim=1)
        elif task.box_source == "keypoints":
            boxes, known = _keypoint_boxes(landmarks)
            boxes, classes, landmarks = boxes[known], classes[known], landmarks[known]
        instances = Instances((1, 1))
        instances.gt_boxes, instances.gt_classes, instances.gt_landmarks = Boxes(boxes), classes, landmarks
        found.append(instances)
    return found


def _landmarks(compared: ComparedArrays, task: Task, i: int) -> Tensor:
    """(N, V, 3)."""
    extremes = compared.tensor(f"gt_extremes{i}").reshape(-1, 5, 2)[:, :4] if f"gt_extremes{i}" in compared else None
    if isinstance(task, PoseTask):
        return compared.tensor(f"gt_keypoints{i}").reshape(-1, task.landmarks.num_landmarks, 3)
    if isinstance(task, ContourTask):
        compared.seen.add(f"gt_polygons{i}")  # those of one part; the scalars have all
        objects = compared.case.meta["scalars"]["gt_polygon_list"][i]
        points = torch.tensor(np.stack([max(map(_points, parts), key=_area) for parts in objects])).float()
    else:
        assert extremes is not None
        points = extremes
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def _points(flat: list[float]) -> np.ndarray:
    return np.asarray(flat).reshape(-1, 2)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2)


def _keypoint_boxes(keypoints: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the labeled keypoints, and whether there are any."""
    labeled = keypoints[..., 2:] > 0
    low = torch.where(labeled, keypoints[..., :2], torch.inf).amin(1)
    high = torch.where(labeled, keypoints[..., :2], -torch.inf).amax(1)
    return torch.cat([low, high], dim=1), labeled.any(1).squeeze(1)
