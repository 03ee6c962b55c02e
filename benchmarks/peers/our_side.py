"""Our detectors, as :mod:`peers.worker` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from inputs import LEVELS, NUM_CLASSES, SIZE, dense_maps, objects, proposals
from timing import clocked
from torch import Tensor, nn

from detkit import __version__, get_config_file
from detkit.config import get_cfg
from detkit.structures import DenseOutputs, GroundTruth
from sparsercnn.head import StageOutputs

try:
    from detkit.engine.prepare import prepare_for_inference, prepare_for_training
except ModuleNotFoundError:  # an earlier commit (benchmarks/since.py)

    def prepare_for_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
        return model

    prepare_for_training = prepare_for_inference

__all__ = ["CASES", "CONFIGS", "batch_of", "build", "detector", "instances"]

#: per method its config, and what its box outputs are (``inputs.dense_maps``)
CONFIGS = {
    "FCOS": ("fcos/fcos_R_50_FPN_1x.yaml", "distances"),
    "ATSS": ("atss/atss_R_50_FPN_1x.yaml", "deltas"),
    "DW": ("dw/dw_R_50_FPN_1x.yaml", "distances"),
    "DW, refined": ("dw/dw_refine_R_50_FPN_1x.yaml", "distances"),
    "Sparse R-CNN": ("sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml", ""),
    "Sparse R-CNN, 300": ("sparsercnn/sparsercnn_R_50_FPN_300pro_3x.yaml", ""),
    "LSNet": ("lsnet/lsnet_R_50_FPN_1x.yaml", ""),
}
_AS_DETECTRON2 = {"SCORE": "sqrt_product", "THRESHOLD_ON": "score", "SCORE_THRESH": 0.2, "CLIP_BEFORE_NMS": False, "NMS_THRESH": 0.6}
AS_DETECTRON2 = tuple(word for key, value in _AS_DETECTRON2.items() for word in (f"MODEL.FCOS.TEST.{key}", value))
#: the label assignment of the peers' FCOS is with center sampling
CHANGES: dict[str, list[Any]] = {"FCOS": ["MODEL.ASSIGNERS.FCOS.CENTER_RADIUS", 1.5]}


@lru_cache(maxsize=1)
def build(method: str, *changes: Any, device: str = "cpu") -> nn.Module:
    """A detector of random weights."""
    torch.manual_seed(0)
    return build_model(_config(method, "MODEL.DEVICE", device, *changes))


def _config(method: str, *changes: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(CONFIGS[method][0]))
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", "", *CHANGES.get(method, []), *changes])
    return cfg


def instances(count: int, size: tuple[int, int] = SIZE, batch: int = 2) -> list[Instances]:
    """The objects of a batch."""
    made = []
    for image in range(batch):
        boxes, classes = objects(count, image, size)
        made.append(Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes))
    return made


def losses(method: str, count: int, size: tuple[int, int] = SIZE, changes: Sequence[Any] = ()) -> Callable[[], object]:
    """From the maps of a head and the objects of a batch of 2 to the gradient of the maps; with ``changes`` of the config."""
    size = (size[0], size[1])
    model: Any = build(method, *changes).train()
    logits, boxes, quality = dense_maps(CONFIGS[method][1], size=size)
    if getattr(model.box_coder, "form", "") == "exp":  # the same boxes
        boxes = [(x * stride).log() for x, stride in zip(boxes, model.prior_generator.strides, strict=True)]
    leaves = [x.requires_grad_() for x in (*logits, *boxes, *quality)]
    given = instances(count, size)

    def run() -> None:
        gt = model.ground_truth(given)
        found = model.losses(DenseOutputs(logits, boxes, quality), gt, [size, size])
        torch.autograd.grad(sum(found.values()), leaves)

    return run


def criterion(num_proposals: int, count: int) -> Callable[[], object]:
    """From the predictions of Sparse R-CNN's six stages to their gradient, matching included."""
    model: Any = build("Sparse R-CNN").train()
    logits, boxes = proposals(num_proposals)
    leaves = [logits.requires_grad_(), boxes.requires_grad_()]
    outputs = StageOutputs(logits, boxes, torch.zeros(*logits.shape[:3], 1), torch.tensor([SIZE, SIZE], dtype=torch.float32))
    given = instances(count)

    def run() -> None:
        gt = GroundTruth.from_instances(given, torch.device("cpu"))
        torch.autograd.grad(sum(model.losses(outputs, gt).values()), leaves)

    return run


def postprocessing(method: str, scores: str) -> Callable[[], object]:
    """From the maps of a head to the detections of one image."""
    detect = _detect(method, scores)
    return _without_gradients(detect)


def _detect(method: str, scores: str) -> Callable[[], Any]:
    alike, section = method == "FCOS, as Detectron2", method.partition(",")[0]
    changes = AS_DETECTRON2 if alike else (f"MODEL.{section}.TEST.NMS_THRESH", 0.6)
    model: Any = build(section, *changes).eval()
    logits, boxes, quality = dense_maps(CONFIGS[section][1], scores=scores, batch=1)
    if getattr(model.box_coder, "form", "") == "exp":
        boxes = [(x * stride).log() for x, stride in zip(boxes, model.prior_generator.strides, strict=True)]
    outputs = DenseOutputs(logits, boxes, quality)
    return lambda: model.detect(outputs, [SIZE])


@torch.no_grad()
def agrees_with_detectron2(scores: str) -> bool:
    """Whether FCOS with the settings of Detectron2's gives its detections."""
    from peers import detectron2_side

    (ours,) = _detect("FCOS, as Detectron2", scores)()
    run: Callable[[], Any] = detectron2_side.postprocessing("FCOS", scores)
    (theirs,) = run()
    same = len(ours) == len(theirs) and ours.pred_classes.equal(theirs.pred_classes) and ours.scores.allclose(theirs.scores)
    return same and ours.pred_boxes.tensor.allclose(theirs.pred_boxes.tensor, atol=1e-3)


def batch_of(size: tuple[int, int], batch: int) -> list[dict[str, Any]]:
    """Images on the host with 8 objects each, as Detectron2's mapper hands them over."""
    data: list[dict[str, Any]] = [{"image": _image(size), "height": size[0], "width": size[1]} for _ in range(batch)]
    for item, objects_ in zip(data, instances(8, size, batch), strict=True):
        objects_.gt_landmarks = _extreme_points(objects_.gt_boxes.tensor)
        item["instances"] = objects_
    return data


def detector(
    method: str, *changes: Any, training: bool, size: tuple[int, int], batch: int = 1, device: str = "cpu"
) -> tuple[nn.Module, Callable[[], Any]]:
    """A detector, and what it makes of images and objects on the host: the sum of the losses, or the detections."""
    cfg, model = _config(method, *changes), build(method, *changes, device=device).train(training)
    model = prepare_for_training(cfg, model) if training else prepare_for_inference(cfg, model)
    data = batch_of(size, batch)
    return model, lambda: torch.stack(list(model(data).values())).sum() if training else model(data)


def _extreme_points(boxes: Tensor) -> Tensor:
    """Landmarks (N, 4, 3) of LSNet's boxes, in the middle of the sides: x, y, and that they are there."""
    x0, y0, x1, y1 = boxes.unbind(1)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    points = [torch.stack(pair, 1) for pair in ((x, y0), (x0, y), (x, y1), (x1, y))]
    return torch.cat([torch.stack(points, 1), torch.ones(len(boxes), 4, 1)], 2)


#: seconds of the processor that the network took within each call of :func:`inference`
IN_NETWORK: list[float] = []


def inference(method: str, size: tuple[int, int]) -> Callable[[], object]:
    """From one image to its detections; notes in :data:`IN_NETWORK` what is the network's own of it."""
    model, run = detector(method, training=False, size=size)
    network = getattr(model, "raw_outputs", None)
    if network is None:  # an earlier commit (benchmarks/since.py)
        return _without_gradients(run)

    def noting(*inputs: Tensor) -> Any:
        outputs: list[Any] = []
        IN_NETWORK.append(clocked(lambda: outputs.append(network(*inputs))).processor)
        return outputs.pop()

    def noted() -> object:
        with patch.object(model, "raw_outputs", noting):
            return run()

    return _without_gradients(noted)


def in_network() -> list[float]:
    """:data:`IN_NETWORK` since it was last asked for."""
    values = IN_NETWORK.copy()
    IN_NETWORK.clear()
    return values


def limit(method: str, size: tuple[int, int]) -> Callable[[], object]:
    """The network alone, from a padded image to raw outputs: what no detector of this network goes below."""
    model: Any = prepare_for_inference(_config(method), build(method).eval())
    images = model.preprocess_image([{"image": _image(size)}])
    return _without_gradients(lambda: model.predict(images))


def launches(method: str) -> dict[str, int]:
    """Of a training step of two images, as the tests count it: on a device that has shapes alone, where no value can be read."""
    import pytest
    from peers.counting import SIZE as SMALL

    from tests.toys.devices import launches_of_step, matched_by_hand

    cfg = _config(method)
    batch = []
    for each in instances(3, SMALL):
        each.gt_landmarks = torch.ones(3, 4, 3)  # LSNet's extreme points; only their number counts
        batch.append({"image": torch.zeros(3, *SMALL), "instances": each, "height": SMALL[0], "width": SMALL[1]})
    with pytest.MonkeyPatch.context() as patch:
        read = matched_by_hand(patch)
        forward, backward = launches_of_step(cfg, batch, patch)
    # two steps were taken: what is read of one is what matching gets
    return {"forward": forward, "backward": backward, "launches": forward + backward, "waits": len(read) // 2}


def head(method: str, training: bool) -> Callable[[], object]:
    """A head alone in the form in which it runs, from the pyramid of one image to raw outputs; in training with their sum's gradient."""
    prepare = prepare_for_training if training else prepare_for_inference
    model: Any = prepare(_config(method), build(method).train(training))
    weight = next(p for p in model.head.parameters() if p.dim() == 4 and p.shape[-1] > 1)
    of_backbone = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    features = [torch.randn(1, 256, *size).contiguous(memory_format=of_backbone).requires_grad_(training) for size in LEVELS]
    leaves = [*features, *(p for p in model.head.parameters() if p.requires_grad)]

    def run() -> None:
        with torch.set_grad_enabled(training):
            values = list(_tensors(vars(model.head(features))))
        if training:
            torch.autograd.grad(torch.stack([value.sum() for value in values]).sum(), leaves, allow_unused=True)

    return run


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def cost(method: str, size: tuple[int, int]) -> dict[str, float]:
    """Millions of parameters and billions of multiply-adds."""
    from detkit.analysis import count_cost

    height, width = (-(-side // 32) * 32 for side in size)
    found = count_cost(build(method).eval(), (height, width))
    return {"parameters_m": found.parameters / 1e6, "multiply_adds_g": found.flops / 1e9}


def version() -> str:
    return __version__


def _image(size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _without_gradients(call: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(call)


assert NUM_CLASSES == 80  # of all configs above
CASES: dict[str, Callable[..., Any]] = {
    "losses": losses,
    "criterion": criterion,
    "postprocessing": postprocessing,
    "agrees_with_detectron2": agrees_with_detectron2,
    "inference": inference,
    "in_network": in_network,
    "limit": limit,
    "launches": launches,
    "cost": cost,
    "head": head,
    "version": version,
}
