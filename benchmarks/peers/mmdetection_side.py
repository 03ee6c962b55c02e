"""mmdetection's FCOS, ATSS, TOOD and Sparse R-CNN, as :mod:`peers.worker` runs them, in the environment of :mod:`peers.environment`.

mmcv-lite has no compiled operators. Those that are needed are torchvision's: NMS, RoIAlign and deformable convolution; focal loss is
mmdetection's own in plain torch, as mmdetection takes it on a CPU, but where launches are counted.
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
from torch.utils._python_dispatch import _disable_current_modes

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


def _roi_align_backward(grad: Tensor, rois: Tensor, argmax_y: Any, argmax_x: Any, grad_input: Tensor, **options: Any) -> None:
    size, scale = (options["aligned_height"], options["aligned_width"]), options["spatial_scale"]
    more = (*grad_input.shape, options["sampling_ratio"], options["aligned"])
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(grad, rois, scale, *size, *more))


def _focal_loss_forward(logits: Tensor, target: Tensor, weight: Any, output: Tensor, *, gamma: float, alpha: float) -> None:
    with _disable_current_modes():  # one operator, whatever it is made of here
        values = _focal_loss(logits, target, gamma, alpha)
    output.copy_(values)


def _focal_loss_backward(logits: Tensor, target: Tensor, weight: Any, grad_input: Tensor, *, gamma: float, alpha: float) -> None:
    with _disable_current_modes(), torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (values,) = torch.autograd.grad(_focal_loss(leaf, target, gamma, alpha).sum(), leaf)
    grad_input.copy_(values)


def _focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    one_hot = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    return torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha, gamma)


class _Operators(types.ModuleType):
    """In the place of ``mmcv._ext``."""

    nms = staticmethod(_nms)
    roi_align_forward = staticmethod(_roi_align)
    roi_align_backward = staticmethod(_roi_align_backward)
    sigmoid_focal_loss_forward = staticmethod(_focal_loss_forward)
    sigmoid_focal_loss_backward = staticmethod(_focal_loss_backward)

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
def build(method: str, **head: Any) -> Any:
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
    made: Any = MODELS.build(model)
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


def detector(
    method: str, *, training: bool, size: tuple[int, int], batch: int = 1, device: str = "cpu"
) -> tuple[nn.Module, Callable[[], Any]]:
    """A detector, and what it makes of images and objects on the host: the sum of the losses, or the detections."""
    model = build(method).train(training).to(device)
    from mmdet.structures import DetDataSample
    from mmengine.logging import MessageHub

    MessageHub.get_current_instance().update_info("epoch", 100)  # past TOOD's first assigner
    size = (size[0], size[1])
    samples = [DetDataSample(metainfo=meta) for meta in _metas(size, batch)]
    for sample, given in zip(samples, _objects(8, size, batch), strict=True):
        sample.gt_instances = given
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for _ in samples]

    def run() -> Any:
        # it writes to the samples that it gets
        data = {"inputs": images, "data_samples": [sample.clone() for sample in samples]}
        if not training:
            return model.test_step(data)
        total, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode="loss"))
        return total

    return model, run


def inference(method: str, size: tuple[int, int]) -> Callable[[], object]:
    """From one image to its detections."""
    return torch.no_grad()(detector(method, training=False, size=size)[1])


def launches(method: str) -> dict[str, int]:
    """Of a training step of two images, with focal loss in one operator forward and one backward, as on a GPU."""
    from peers import counting

    _, loss = detector(method, training=True, size=counting.SIZE, batch=2)
    _focal_loss_as_on_gpus()
    return counting.count(loss)


def _focal_loss_as_on_gpus() -> None:
    """mmdetection takes its compiled focal loss where tensors are on a GPU: here, too."""
    from mmdet.models.losses import focal_loss

    def forward(self: Any, pred: Tensor, target: Tensor, weight: Any = None, avg_factor: Any = None, reduction_override: Any = None) -> Any:
        reduction = reduction_override or self.reduction
        return self.loss_weight * focal_loss.sigmoid_focal_loss(pred, target, weight, self.gamma, self.alpha, reduction, avg_factor)

    focal_loss.FocalLoss.forward = forward


def version() -> str:
    return str(_mmdetection().__version__)


assert NUM_CLASSES == 80  # of all configs above
CASES: dict[str, Callable[..., Any]] = {
    "losses": losses,
    "criterion": criterion,
    "postprocessing": postprocessing,
    "inference": inference,
    "launches": launches,
    "version": version,
}
