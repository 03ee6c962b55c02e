"""Which Detectron2 evaluator a dataset gets."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator

from .crowdhuman import CrowdHumanEvaluator
from .detections import DetectionEvaluator

__all__ = ["build_evaluator", "inference_folder"]


def inference_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where the detections on a dataset go: ``OUTPUT_DIR/inference/<dataset_name>``."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str] | None = None) -> DatasetEvaluator:
    """The evaluator of a registered dataset, by its ``evaluator_type``; COCO's where it has none or another.

    Args:
        output_folder: for the detections; default :func:`inference_folder`.
    """
    folder = str(output_folder or inference_folder(cfg, dataset_name))
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type == "crowdhuman":
        return CrowdHumanEvaluator(dataset_name, output_dir=folder)
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, output_dir=folder)
    if evaluator_type == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    return DetectionEvaluator(
        dataset_name,
        output_dir=folder,
        keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
