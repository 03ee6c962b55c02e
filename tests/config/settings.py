"""What a config of ours says, in the words of ``published_settings.json``: how published codes train and test.

:func:`settings_of` gives the settings by dotted key; :func:`published` those of a published config. Where a key of the file is not
among ours, the comparison fails.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .method_settings import dense_settings, lsnet_settings, proposal_settings, sparse_rcnn_settings
from .pretrained import kind_of

__all__ = ["Published", "commits", "published", "repositories", "settings_of", "source_of"]

FACTS = Path(__file__).parent / "published_settings.json"
MARK = "# settings: "

#: networks of torchvision and timm: name, depth, groups, width, convolution that strides, and their norms where they are no batch norms
_EXTRACTORS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"name": "MobileNetV2"},
    "hrnet_w32": {"name": "HRNet-W32"},
    "dla34": {"name": "DLA-34"},
    "res2net101d": {"name": "Res2Net", "depth": 101, "groups": 1, "width_per_group": 26, "stride_in": "3x3"},
    "pvt_v2_b2": {"name": "PVT v2 b2", "norm_statistics": "none (LayerNorm)", "norm_affine": "trained"},
}
_ABOVE_FPN = {"p5": "p5", "c5": "c5", "pool": "pooling of p5", "none": None}


class Published(dict):
    """The settings of a published config by dotted key. ``weights``: what was published for it, with AP and split."""

    weights: list[dict[str, Any]]


def source_of(path: Path) -> str | None:
    """The published config that a config of ours claims to train and test as: ``repository:path``; None where its header names none."""
    lines = [line.removeprefix(MARK).strip() for line in path.read_text().splitlines() if line.startswith(MARK)]
    assert len(lines) <= 1, f"{path}: more than one line '{MARK}...'"
    return lines[0] if lines else None


@cache
def repositories() -> dict[str, Any]:
    return json.loads(FACTS.read_text())["repositories"]


@cache
def commits() -> dict[str, str]:
    """The commit of each repository at which its configs were read."""
    return json.loads(FACTS.read_text())["commits"]


def published(source: str) -> Published:
    """The settings of ``repository:path``."""
    repository, _, path = source.partition(":")
    group = repositories()[repository]
    entry = group["configs"][path]
    settings = Published(group["common"] | entry["settings"])
    for key in entry.get("absent", ()):
        settings.pop(key, None)
    settings.weights = entry.get("weights", [])
    return settings


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """The settings of a resolved config of ours, by dotted key."""
    methods = {"LSNet": lsnet_settings, "SparseRCNN": sparse_rcnn_settings, "ProposalNetwork": proposal_settings}
    method = methods.get(cfg.MODEL.META_ARCHITECTURE, dense_settings)
    parts = {
        "backbone": _backbone(cfg),
        "fpn": _fpn(cfg),
        "optimizer": _optimizer(cfg),
        "schedule": _schedule(cfg),
        "input": _input(cfg),
        **method(cfg),
    }
    parts["test"] |= {
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
    }
    if cfg.TEST.AUG.ENABLED:
        parts["multi_scale_test"] = _multi_scale_test(cfg, parts["test"])
    return dict(_flat(parts))


def _flat(tree: dict[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and key != "area_ranges":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _backbone(cfg: CfgNode) -> dict[str, Any]:
    node, resnet = cfg.MODEL.BACKBONE, cfg.MODEL.RESNETS
    of_library = cfg.MODEL.FPN.BOTTOM_UP in ("build_timm_backbone", "build_torchvision_backbone")
    network: dict[str, Any] = dict.fromkeys(("depth", "groups", "width_per_group", "stride_in"))
    if of_library:
        network |= _EXTRACTORS[node.ARCH]
    else:
        network |= {
            "name": "ResNet" if resnet.NUM_GROUPS == 1 else "ResNeXt",
            "depth": resnet.DEPTH,
            "groups": resnet.NUM_GROUPS,
            "width_per_group": resnet.WIDTH_PER_GROUP,
            "stride_in": "1x1" if resnet.STRIDE_IN_1X1 else "3x3",
        }
    norm = node.NORM if of_library else resnet.NORM
    statistics = {"FrozenBN": "fixed", "SyncBN": "batch, synchronised", "BN": "batch"}[norm]
    deformable = [name for name, on in zip(("res2", "res3", "res4", "res5"), resnet.DEFORM_ON_PER_STAGE, strict=True) if on]
    return {
        "norm_statistics": statistics,
        "norm_affine": "fixed" if norm == "FrozenBN" and not node.TRAIN_AFFINE else "trained",
        "dcn_stages": deformable,
        "dcn_version": (2 if resnet.DEFORM_MODULATED else 1) if deformable else None,
        "frozen": ["stem", "res2", "res3", "res4", "res5"][: node.FREEZE_AT],
        "pretrained_kind": kind_of(cfg),
        **network,
    }


def _fpn(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.FPN
    of_hrnet = cfg.MODEL.BACKBONE.NAME == "build_hrfpn_backbone"
    first, count = int(node.IN_FEATURES[0][-1]), len(node.IN_FEATURES)
    extra = {"p5": 2, "c5": 2, "pool": 1, "none": 0}[node.TOP_BLOCK]
    first, count = (first + 1, 5) if of_hrnet else (first, count + extra)
    has_p7 = node.TOP_BLOCK in ("p5", "c5") and not of_hrnet
    names = [name.replace("res", "level") for name in node.IN_FEATURES] if cfg.MODEL.BACKBONE.ARCH == "dla34" else list(node.IN_FEATURES)
    return {
        "in_levels": names,
        "out_levels": [f"p{first + i}" for i in range(count)],
        "channels": node.OUT_CHANNELS,
        "extra_levels_from": None if of_hrnet else _ABOVE_FPN[node.TOP_BLOCK],
        "relu_before_p7": node.RELU_BEFORE_P7 if has_p7 else None,
        "norm": node.NORM,
        "extra_levels_norm": node.TOP_BLOCK_NORM,
    }


def _optimizer(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.SOLVER
    decay = node.WEIGHT_DECAY
    of_norms = decay if node.WEIGHT_DECAY_NORM is None else node.WEIGHT_DECAY_NORM
    return {
        "type": node.OPTIMIZER,
        "base_lr": node.BASE_LR,
        "momentum": node.MOMENTUM if node.OPTIMIZER == "SGD" else None,
        "weight_decay": decay,
        "lr_factor_bias": node.BIAS_LR_FACTOR,
        "lr_factor_norm_bias": node.BIAS_LR_FACTOR if node.BIAS_LR_FACTOR_OF_NORMS else 1.0,
        "weight_decay_bias": decay if node.WEIGHT_DECAY_BIAS is None else node.WEIGHT_DECAY_BIAS,
        "weight_decay_norm_weight": of_norms,
        "weight_decay_norm_bias": of_norms if node.WEIGHT_DECAY_BIAS is None else node.WEIGHT_DECAY_BIAS,
    }


def _schedule(cfg: CfgNode) -> dict[str, Any]:
    node, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    kinds = {"full_model": "norm of all gradients", "norm": "norm of each gradient", "value": "value"}
    return {
        "images_per_batch": node.IMS_PER_BATCH,
        "images_seen": node.MAX_ITER * node.IMS_PER_BATCH,
        "lr_drops_after_images": [step * node.IMS_PER_BATCH for step in node.STEPS],
        "lr_gamma": node.GAMMA,
        "warmup_kind": node.WARMUP_METHOD,
        "warmup_factor": node.WARMUP_FACTOR,
        "warmup_iterations": node.WARMUP_ITERS,
        "clip_kind": kinds[clip.CLIP_TYPE] if clip.ENABLED else None,
        "clip_value": clip.CLIP_VALUE if clip.ENABLED else None,
        "amp": node.AMP.ENABLED,
    }


def _input(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.INPUT
    sizes = list(node.MIN_SIZE_TRAIN)
    crop: Any = None
    if node.MAPPER == "CropMapper":
        crop = {
            "probability": 0.5,
            "resize_shorter_side_to": list(node.CROP.MIN_SIZES),
            "resize_max_size": node.CROP.MAX_SIZE or None,
            "type": node.CROP.TYPE,
            "size": list(node.CROP.SIZE),
            "then": "resize to a train size",
        }
    return {
        "format": node.FORMAT,
        "mean": list(cfg.MODEL.PIXEL_MEAN),
        "std": list(cfg.MODEL.PIXEL_STD),
        "train_min_sizes": sizes,
        "train_sampling": "single" if len(sizes) == 1 else node.MIN_SIZE_TRAIN_SAMPLING,
        "train_max_size": node.MAX_SIZE_TRAIN,
        "crop": crop,
        "filter_images_without_annotations": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "filter_images_smaller_than": None,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "train_set": list(cfg.DATASETS.TRAIN),
        "test_set": list(cfg.DATASETS.TEST),
    }


def _multi_scale_test(cfg: CfgNode, test: dict[str, Any]) -> dict[str, Any]:
    node = cfg.TEST.AUG
    ranges = [list(entry) for entry in node.AREA_RANGES] or [None] * len(node.MIN_SIZES)
    at_each_size = cfg.TEST.DETECTIONS_PER_IMAGE
    return {
        "area_ranges": dict(zip(map(str, node.MIN_SIZES), ranges, strict=True)),
        "area_unit": {"input": "pixels of the resized image", "original": "pixels of the image"}[node.AREA_UNIT]
        if node.AREA_RANGES
        else None,
        "area_ends_included": True if node.AREA_RANGES else None,
        "max_size": node.MAX_SIZE,
        "max_size_of_base": node.MAX_SIZE if 800 in node.MIN_SIZES else None,
        "max_size_below_800": node.MAX_SIZE,
        "flip": node.FLIP,
        "flip_of_base": node.FLIP if 800 in node.MIN_SIZES else None,
        "merge": node.MERGE,
        "merge_threshold": node.MERGE_THRESH,
        "soft_vote_min_score": node.SOFT_VOTE_MIN_SCORE if node.MERGE == "soft_vote" else None,
        "nms_at_each_size": test["nms_kind"] != "none",
        "max_detections_at_each_size": at_each_size,
        "max_detections": node.MAX_DETECTIONS or at_each_size,
    }
