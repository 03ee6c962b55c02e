"""Our models for golden cases: whole ones with the official weights, and bare heads for cases that start from raw outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detkit.assigners import AssignContext, Assigner
from detkit.checkpoint import ConversionReport, convert_state_dict
from detkit.dense import DenseDetector
from detkit.dense.criteria import DenseTargets
from detkit.geometry import Priors, box_areas
from detkit.structures import DenseOutputs, GroundTruth, HardAssignment

from .cases import GoldenCase, procedural_state_dict
from .sources import cfg_of, code_of

__all__ = [
    "assign",
    "bare_detector",
    "ground_truth_of",
    "image_inputs",
    "official_regression",
    "run_network",
    "run_network_with_gradient",
    "split_levels",
    "targets_of",
    "train_mode",
    "whole_model",
    "with_detectron2_ties",
]

STRIDES = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}


@BACKBONE_REGISTRY.register()
class NoPyramid(Backbone):
    """Names and strides of P3 to P7, for detectors that are only given raw outputs."""

    def __init__(self, cfg: CfgNode | None = None, input_shape: ShapeSpec | None = None) -> None:
        super().__init__()
        self._out_features = list(STRIDES)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = dict.fromkeys(STRIDES, 1)

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("A detector without a pyramid is only given raw outputs.")


def bare_detector(cfg: CfgNode) -> DenseDetector:
    """The detector of a config without its network."""
    node = cfg.MODEL[cfg.MODEL.META_ARCHITECTURE]
    cfg.MODEL.BACKBONE.NAME = "NoPyramid"
    node.HEAD.NUM_CONVS = 0
    return build_model(cfg)


def split_levels(flat: Tensor, level_sizes: list[tuple[int, int]]) -> list[Tensor]:
    """(B, C, P) to one (B, C, H, W) per level."""
    parts = flat.split([h * w for h, w in level_sizes], dim=2)
    return [part.reshape(*part.shape[:2], h, w) for part, (h, w) in zip(parts, level_sizes, strict=True)]


@lru_cache(maxsize=1)
def whole_model(case: GoldenCase) -> tuple[DenseDetector, CfgNode, ConversionReport]:
    """The detector of a case with its official weights, converted and loaded, in evaluation mode; its config; what was converted."""
    cfg = cfg_of(case)
    if any(".bn" in name for name in case.meta.get("grad_norm_names", ())):
        cfg.MODEL.RESNETS.NORM = "BN"  # trained in mmdetection's ATSS, with fixed statistics
    model = build_model(cfg).eval()
    converted, report = convert_state_dict(procedural_state_dict(case), model)
    model.load_state_dict(converted, strict=False)
    return model, cfg, report


def train_mode(model: nn.Module) -> nn.Module:
    """Training mode with fixed batch statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def image_inputs(case: GoldenCase, cfg: CfgNode) -> list[dict]:
    """The images of a case as Detectron2's mapper hands them over, with the output size where the case names one."""
    inputs = []
    while f"image{len(inputs)}" in case.arrays:
        i = len(inputs)
        image = case.tensor(f"image{i}").permute(2, 0, 1).float()
        item = {"image": image.flip(0) if cfg.INPUT.FORMAT == "RGB" else image}
        if f"out_hw{i}" in case.arrays:
            item["height"], item["width"] = case.tensor(f"out_hw{i}").tolist()
        inputs.append(item)
    return inputs


def ground_truth_of(case: GoldenCase, num_images: int, prefix: str = "") -> GroundTruth:
    """The objects of a case, in the box convention of its code."""
    instances = []
    for i in range(num_images):
        instance = Instances((1, 1))
        instance.gt_boxes = Boxes(case.tensor(f"{prefix}gt_boxes{i}").reshape(-1, 4))
        instance.gt_classes = case.tensor(f"{prefix}gt_classes{i}")
        instances.append(instance)
    return GroundTruth.from_instances(instances)


def official_regression(case: GoldenCase, model: DenseDetector, outputs: DenseOutputs) -> list[Tensor]:
    """Our raw regression maps in the form in which the code of a case gives its own."""
    code = code_of(case)
    coder = model.box_coder
    if code in ("facebookresearch/detectron2", "sfzhang15/ATSS") or not hasattr(coder, "distances"):
        return outputs.boxes
    in_pixels = case.kind == "inference" and coder.form == "relu" and code != "aim-uofa/AdelaiDet"
    return [
        coder.distances(raw) * (stride if in_pixels else 1)
        for raw, stride in zip(outputs.boxes, model.prior_generator.strides, strict=True)
    ]


@torch.no_grad()
def run_network(model: DenseDetector, inputs: list[dict]) -> tuple[Tensor, list[Tensor], DenseOutputs, list[tuple[int, int]]]:
    """The padded batch, the pyramid, the raw outputs and the image sizes."""
    return run_network_with_gradient(model, inputs)


def run_network_with_gradient(model: DenseDetector, inputs: list[dict]) -> tuple[Tensor, list[Tensor], DenseOutputs, list[tuple[int, int]]]:
    """:func:`run_network`, recording for backpropagation."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    pyramid = [features[name] for name in model.head_in_features]
    return images.tensor, pyramid, model.head(pyramid), images.image_sizes


def targets_of(
    case: GoldenCase, model: DenseDetector, gt: GroundTruth, priors: Priors, sizes: Sequence[tuple[int, int]]
) -> tuple[HardAssignment, DenseTargets]:
    """What the model learns from a batch, with Detectron2's rule for ties where its code computed the case."""
    assignment = model.pipeline.assign(priors, gt, None, sizes)
    if code_of(case) == "facebookresearch/detectron2":
        tied = [with_detectron2_ties(model.assigner, boxes[valid], priors) for boxes, valid in zip(gt.boxes, gt.valid, strict=True)]
        assignment = HardAssignment(torch.stack(tied))
    return assignment, DenseTargets.from_assignment(assignment, gt, priors, model.num_classes)


def assign(assigner: Assigner, images: Tensor, priors: Priors) -> Tensor:
    """gt index (B, P) of images of equally many boxes (B, G, 4)."""
    gt = GroundTruth(images, torch.zeros(images.shape[:2], dtype=torch.int64), torch.ones(images.shape[:2], dtype=torch.bool))
    return assigner(AssignContext(gt, priors)).gt_index


def with_detectron2_ties(assigner: Assigner, boxes: Tensor, priors: Priors) -> Tensor:
    """What FCOS's assigner gives if areas are compared as Detectron2 does, in float32 as 1e8 - area: closer than 8 they tie."""
    if not len(boxes):
        return torch.full((priors.num_priors,), -1)
    wants = assign(assigner, boxes[:, None], priors) == 0  # (G, P): each object alone
    quality = wants.float() * (1e8 - box_areas(boxes))[:, None]
    best, gt_index = quality.max(dim=0)
    return torch.where(best > 0, gt_index, -1)
