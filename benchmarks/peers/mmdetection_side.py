"""mmdetection's FCOS, ATSS, TOOD and Sparse R-CNN, as :mod:`peers.worker` runs them, in the environment of :mod:`peers.environment`.

mmcv-lite has no compiled operators. Those that are needed are torchvision's: NMS, RoIAlign and deformable convolution; focal loss is
mmdetection's own in plain torch, as mmdetection takes it on a CPU.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from inputs import NUM_CLASSES, SIZE, dense_maps, objects, proposals
from torch import Tensor, nn

__all__ = ["CASES", "build"]

#: configs of the wheel, and what box outputs are; by our names of the methods
CONFIGS = {
    "FCOS": ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "distances"),
    "ATSS": ("atss/atss_r50_fpn_1x_coco.py", "deltas"),
    "DW": ("tood/tood_r50_fpn_1x_coco.py", "distances"),
    "DW, refined": ("tood/tood_r50_fpn_1x_coco.py", "distances"),
    "Sparse R-CNN": ("sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", ""),
    "Sparse R-CNN, 300": ("sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py", ""),
}


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    assert offset == 0
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def _roi_align(features: Tensor, rois: Tensor, output: Tensor, *_: Any, **options: Any) -> None:
    assert options["pool_mode"] == 1  # the average
    size, scale = (options["aligned_height"], options["aligned_width"]), options["spatial_scale"]
    output.copy_(torchvision.ops.roi_align(features, rois, size, scale, options["sampling_ratio"], options["aligned"]))


class _Operators(types.ModuleType):
    """In the place of ``mmcv._ext``."""

    nms = staticmethod(_nms)
    roi_align_forward = staticmethod(_roi_align)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"mmcv-lite has no operator {name}")

        return missing


@cache
def _mmdetection() -> Any:
    module = _Operators("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    sys.modules["mmcv._ext"] = module
    import mmdet
    from mmdet.models.dense_heads import tood_head
    from mmdet.utils import register_all_modules

    def deform_conv(x: Tensor, offset: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, *_: Any) -> Tensor:
        return torchvision.ops.deform_conv2d(x, offset, weight, None, stride, padding, dilation)

    tood_head.deform_conv2d = deform_conv
    register_all_modules()
    return mmdet


@lru_cache(maxsize=1)
def build(method: str, **head: Any) -> nn.Module:
    """A detector of random weights; ``head`` changes the config of its dense head."""
    from mmengine.config import Config

    mmdet = _mmdetection()
    from mmdet.registry import MODELS

    model = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIGS[method][0]).model
    model.backbone.init_cfg = None
    if "bbox_head" in model:
        model.bbox_head.update(head)
        model.test_cfg.nms.iou_threshold = 0.6
    torch.manual_seed(0)
    made = MODELS.build(model)
    made.init_weights()
    return made


def _objects(count: int, size: tuple[int, int], batch: int = 2) -> list[Any]:
    from mmengine.structures import InstanceData

    pairs = [objects(count, image, size) for image in range(batch)]
    return [InstanceData(bboxes=boxes, labels=classes) for boxes, classes in pairs]


def _metas(size: tuple[int, int], batch: int) -> list[dict[str, Any]]:
    one = {"img_shape": size, "pad_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "batch_input_shape": size}
    return [dict(one) for _ in range(batch)]


def losses(method: str, count: int, size: tuple[int, int] = SIZE) -> Callable[[], object]:
    """From the maps of a head and the objects of a batch of 2 to the gradient of the maps.

    TOOD's head hands over scores and boxes where the others hand over logits and distances: its gradient ends there.
    """
    size = (size[0], size[1])
    head = build(method, **({"center_sampling": True} if method == "FCOS" else {})).bbox_head.train()
    strides = (8, 16, 32, 64, 128)
    maps = [list(each) for each in dense_maps(CONFIGS[method][1], size=size)]
    if method == "FCOS":
        maps[1] = [x * stride for x, stride in zip(maps[1], strides, strict=True)]  # pixels
    if method.startswith("DW"):
        from mmengine.logging import MessageHub

        MessageHub.get_current_instance().update_info("epoch", 100)  # past its first assigner
        maps = [[x.sigmoid() for x in maps[0]], [_boxes_in_strides(x) for x in maps[1]]]
    leaves = [x.requires_grad_() for each in maps for x in each]
    given, metas = _objects(count, size), _metas(size, 2)

    def run() -> None:
        found = head.loss_by_feat(*maps, given, metas)
        values = [x for value in found.values() for x in (value if isinstance(value, list) else [value])]
        torch.autograd.grad(sum(values), leaves)

    return run


def _boxes_in_strides(distances: Tensor) -> Tensor:
    height, width = distances.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    left, top, right, bottom = distances.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1)


def criterion(num_proposals: int, count: int) -> Callable[[], object]:
    """From the predictions of Sparse R-CNN's six stages to their gradient, matching included, as its head goes stage by stage."""
    from mmengine.structures import InstanceData

    roi_head = build("Sparse R-CNN").roi_head.train()
    logits, boxes = proposals(num_proposals)
    leaves = [logits.requires_grad_(), boxes.requires_grad_()]
    given, metas = _objects(count, SIZE), _metas(SIZE, 2)
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=torch.float32).expand(2, num_proposals, 4)

    def run() -> None:
        values = []
        for stage, (scores, found) in enumerate(zip(logits, boxes, strict=True)):
            sampled = []
            for image, meta in enumerate(metas):
                free = found[image].detach()
                predicted = InstanceData(bboxes=free, scores=scores[image].detach(), priors=free)
                assigned = roi_head.bbox_assigner[stage].assign(predicted, given[image], gt_instances_ignore=None, img_meta=meta)
                sampled.append(roi_head.bbox_sampler[stage].sample(assigned, predicted, given[image]))
            terms = roi_head.bbox_head[stage].loss_and_target(
                scores.flatten(0, 1), found.flatten(0, 1), sampled, roi_head.train_cfg[stage], imgs_whwh=scale
            )["loss_bbox"]
            values += [value for name, value in terms.items() if name.startswith("loss")]
        torch.autograd.grad(sum(values), leaves)

    return run


def postprocessing(method: str, scores: str) -> Callable[[], object]:
    """From the maps of a head to the detections of one image."""
    head = build(method).bbox_head.eval()
    logits, boxes, quality = dense_maps(CONFIGS[method][1], scores=scores, batch=1)
    if method == "FCOS":
        boxes = [x * stride for x, stride in zip(boxes, (8, 16, 32, 64, 128), strict=True)]
    metas = _metas(SIZE, 1)
    return torch.no_grad()(lambda: head.predict_by_feat(logits, boxes, quality, batch_img_metas=metas, rescale=False))


def inference(method: str, size: tuple[int, int]) -> Callable[[], object]:
    """From one image to its detections."""
    from mmdet.structures import DetDataSample

    model = build(method).eval()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    meta = _metas((size[0], size[1]), 1)[0]
    return torch.no_grad()(lambda: model.test_step({"inputs": [image], "data_samples": [DetDataSample(metainfo=meta)]}))


def version() -> str:
    return str(_mmdetection().__version__)


assert NUM_CLASSES == 80  # of all configs above
CASES: dict[str, Callable[..., Any]] = {
    "losses": losses,
    "criterion": criterion,
    "postprocessing": postprocessing,
    "inference": inference,
    "version": version,
}
