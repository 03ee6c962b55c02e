"""Key lists of published weights, written down from the module structure of their codes: name -> shape.

``procedural`` fills them with numbers, so that a whole published file can be rebuilt in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["adelaidet_fcos", "dla34", "fcos_core", "mmdetection_head", "mobilenet_v2", "procedural", "resnet"]

Shapes = dict[str, tuple[int, ...]]
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def procedural(shapes: Shapes) -> dict[str, Tensor]:
    """Random weights of these shapes that depend on their names alone; statistics and affine parts are near those of real batch norms."""
    weights = {}
    for key, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        noise = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            weights[key] = 0.5 + noise.abs()
        elif len(shape) > 1:
            weights[key] = noise * (2 / noise[0].numel()) ** 0.5
        elif key.endswith("weight"):
            weights[key] = 0.5 + 0.1 * noise
        else:
            weights[key] = 0.1 * noise
    return weights


def norm(name: str, channels: int, *, batch: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var") if batch else ("weight", "bias"):
        yield f"{name}.{part}", (channels,)


def conv(name: str, channels: int, inputs: int, kernel: int = 3, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels, inputs, kernel, kernel)
    if bias:
        yield f"{name}.bias", (channels,)


def resnet(depth: int, *, groups: int = 1, width: int = 64, deformable: tuple[int, ...] = (), style: str = "torchvision") -> Shapes:
    """A ResNet or ResNeXt with the names of torchvision (``layer1.0.bn1``) or Detectron2 (``res2.0.conv1.norm``), of version 2 deformable
    in the stages ``deformable`` of 2 to 5. maskrcnn-benchmark keeps torchvision's names below ``stem`` and puts a deformable convolution
    and its offsets into a module; mmdetection keeps them, with offsets of its own.
    """
    detectron2, shapes = style == "detectron2", Shapes()
    stem = {"detectron2": ("stem.conv1", "stem.conv1.norm"), "benchmark": ("stem.conv1", "stem.bn1")}.get(style, ("conv1", "bn1"))
    shapes |= dict(conv(stem[0], 64, 3, 7, bias=False)) | dict(norm(stem[1], 64, batch=True))
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        inner, outputs = groups * width * 2 ** (stage - 2), (64 if depth == 18 else 256) * 2 ** (stage - 2)
        for block in range(blocks):
            prefix = f"res{stage}.{block}" if detectron2 else f"layer{stage - 1}.{block}"
            plan = ((1, inner, inputs, 1), (2, inner, inner // groups, 3), (3, outputs, inner, 1))
            if depth == 18:
                plan = ((1, outputs, inputs, 3), (2, outputs, outputs, 3))
            for number, channels, before, kernel in plan:
                name = f"{prefix}.conv{number}"
                if number == 2 and stage in deformable:
                    offset = {"benchmark": f"{name}.offset", "mmdetection": f"{name}.conv_offset"}.get(style, f"{name}_offset")
                    shapes |= dict(conv(f"{name}.conv" if style == "benchmark" else name, channels, before, kernel, bias=False))
                    shapes |= dict(conv(offset, 27, inner))
                else:
                    shapes |= dict(conv(name, channels, before, kernel, bias=False))
                shapes |= dict(norm(f"{name}.norm" if detectron2 else f"{prefix}.bn{number}", channels, batch=True))
            if inputs != outputs:
                name, norm_name = (f"{prefix}.shortcut", ".norm") if detectron2 else (f"{prefix}.downsample", ".1")
                shapes |= dict(conv(name if detectron2 else f"{name}.0", outputs, inputs, 1, bias=False))
                shapes |= dict(norm(name + norm_name, outputs, batch=True))
            inputs = outputs
    return shapes


def mobilenet_v2() -> Shapes:
    """tonylins/pytorch-mobilenet-v2 up to the last block, as tianzhi0549/FCOS uses it."""
    shapes = dict(conv("features.0.0", 32, 3, bias=False)) | dict(norm("features.0.1", 32, batch=True))
    inputs, index = 32, 1
    for widen, outputs, repeats in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(repeats):
            inner, layers = inputs * widen, []
            if widen > 1:
                layers.append((inner, inputs, 1))
            layers += [(inner, 1, 3), (outputs, inner, 1)]
            for number, (channels, before, kernel) in enumerate(layers):
                shapes |= dict(conv(f"features.{index}.conv.{3 * number}", channels, before, kernel, bias=False))
                shapes |= dict(norm(f"features.{index}.conv.{3 * number + 1}", channels, batch=True))
            inputs, index = outputs, index + 1
    return shapes


def dla34() -> Shapes:
    """ucbdrive/dla's DLA-34 without its classifier, the two projections that it never uses included."""
    channels = (16, 32, 64, 128, 256, 512)
    shapes = dict(conv("base_layer.0", 16, 3, 7, bias=False)) | dict(norm("base_layer.1", 16, batch=True))
    for level, inputs in ((0, 16), (1, 16)):
        shapes |= dict(conv(f"level{level}.0", channels[level], inputs, bias=False)) | dict(
            norm(f"level{level}.1", channels[level], batch=True)
        )
    for level, depth in ((2, 1), (3, 2), (4, 2), (5, 1)):
        shapes |= _tree(f"level{level}", depth, channels[level - 1], channels[level], root=level > 2)
    return shapes


def _tree(name: str, depth: int, inputs: int, outputs: int, *, root: bool, extra: int = 0) -> Shapes:
    """A tree of blocks. ``extra``: channels that join at its root beside those of its two children."""
    shapes = Shapes()
    extra += inputs if root else 0
    if depth == 1:
        for child, before in (("tree1", inputs), ("tree2", outputs)):
            for number, channels in ((1, before), (2, outputs)):
                shapes |= dict(conv(f"{name}.{child}.conv{number}", outputs, channels, bias=False))
                shapes |= dict(norm(f"{name}.{child}.bn{number}", outputs, batch=True))
        shapes |= dict(conv(f"{name}.root.conv", outputs, 2 * outputs + extra, 1, bias=False)) | dict(
            norm(f"{name}.root.bn", outputs, batch=True)
        )
    else:
        shapes |= _tree(f"{name}.tree1", depth - 1, inputs, outputs, root=False)
        shapes |= _tree(f"{name}.tree2", depth - 1, outputs, outputs, root=False, extra=extra + outputs)
    if inputs != outputs:
        shapes |= dict(conv(f"{name}.project.0", outputs, inputs, 1, bias=False)) | dict(norm(f"{name}.project.1", outputs, batch=True))
    return shapes


def _tower(name: str, width: int, *, convs: int, norms: int, deformable: bool = False) -> Shapes:
    """Convolution, norm and ReLU by turns. ``norms``: 0 for a GroupNorm, else batch norms of so many levels."""
    shapes = Shapes()
    for number in range(convs):
        if deformable and number == convs - 1:
            shapes |= dict(conv(f"{name}.{3 * number}.offset", 27, width)) | dict(conv(f"{name}.{3 * number}.conv", width, width))
        else:
            shapes |= dict(conv(f"{name}.{3 * number}", width, width))
        if norms:
            for level in range(norms):
                shapes |= dict(norm(f"{name}.{3 * number + 1}.{level}", width, batch=True))
        else:
            shapes |= dict(norm(f"{name}.{3 * number + 1}", width, batch=False))
    return shapes


def fcos_core(backbone: Shapes, channels: tuple[int, int, int], *, width: int = 256, deformable: bool = False) -> Shapes:
    """A detector of tianzhi0549/FCOS on a backbone whose last three maps have these channels."""
    shapes = {f"backbone.body.{name}": shape for name, shape in backbone.items()}
    for level, inputs in enumerate(channels, start=2):
        shapes |= dict(conv(f"backbone.fpn.fpn_inner{level}", width, inputs, 1)) | dict(
            conv(f"backbone.fpn.fpn_layer{level}", width, width)
        )
    for level in (6, 7):
        shapes |= dict(conv(f"backbone.fpn.top_blocks.p{level}", width, width))
    for tower in ("cls_tower", "bbox_tower"):
        shapes |= _tower(f"rpn.head.{tower}", width, convs=4, norms=0, deformable=deformable)
    for name, outputs in (("cls_logits", 80), ("bbox_pred", 4), ("centerness", 1)):
        shapes |= dict(conv(f"rpn.head.{name}", outputs, width))
    return shapes | {f"rpn.head.scales.{level}.scale": (1,) for level in range(5)}


def adelaidet_fcos(
    backbone: Shapes,
    channels: tuple[int, int, int],
    *,
    levels: int = 5,
    towers: int = 4,
    shared: int = 0,
    batch_norm: bool = False,
    deformable: bool = False,
) -> Shapes:
    """A detector of AdelaiDet's FCOS on a backbone whose last three maps have these channels."""
    shapes = {f"backbone.bottom_up.{name}": shape for name, shape in backbone.items()}
    for level, inputs in enumerate(channels, start=3):
        shapes |= dict(conv(f"backbone.fpn_lateral{level}", 256, inputs, 1)) | dict(conv(f"backbone.fpn_output{level}", 256, 256))
    for level in range(6, levels + 3):
        shapes |= dict(conv(f"backbone.top_block.p{level}", 256, 256))
    head, norms = "proposal_generator.fcos_head", levels if batch_norm else 0
    for tower, convs in (("cls_tower", towers), ("bbox_tower", towers), ("share_tower", shared)):
        shapes |= _tower(f"{head}.{tower}", 256, convs=convs, norms=norms, deformable=deformable)
    for name, outputs in (("cls_logits", 80), ("bbox_pred", 4), ("ctrness", 1)):
        shapes |= dict(conv(f"{head}.{name}", outputs, 256))
    return shapes | {f"{head}.scales.{level}.scale": (1,) for level in range(levels)}


def mmdetection_head(method: str, backbone: Shapes | None = None, channels: tuple[int, int, int] = (512, 1024, 2048)) -> Shapes:
    """A detector of mmdetection: ``"retinanet"`` or ``"autoassign"`` with P6 and P7 from C5, or ``"atss"`` with P6 from P5; the backbone is
    a ResNet-50 unless given."""
    shapes = {f"backbone.{name}": shape for name, shape in (backbone or resnet(50)).items()}
    for level, inputs in enumerate(channels):
        shapes |= dict(conv(f"neck.lateral_convs.{level}.conv", 256, inputs, 1)) | dict(conv(f"neck.fpn_convs.{level}.conv", 256, 256))
    below_p6 = 256 if method == "atss" else channels[-1]
    shapes |= dict(conv("neck.fpn_convs.3.conv", 256, below_p6)) | dict(conv("neck.fpn_convs.4.conv", 256, 256))
    for tower in ("cls_convs", "reg_convs"):
        for number in range(4):
            shapes |= dict(conv(f"bbox_head.{tower}.{number}.conv", 256, 256, bias=method != "atss"))
            if method != "retinanet":
                shapes |= dict(norm(f"bbox_head.{tower}.{number}.gn", 256, batch=False))
    if method == "retinanet":
        return shapes | dict(conv("bbox_head.retina_cls", 720, 256)) | dict(conv("bbox_head.retina_reg", 36, 256))
    for name, outputs in (("cls", 80), ("reg", 4), ("centerness", 1)):
        shapes |= dict(conv(f"bbox_head.{'atss' if method == 'atss' else 'conv'}_{name}", outputs, 256))
    shapes |= {f"bbox_head.scales.{level}.scale": () for level in range(5)}
    if method == "atss":
        return shapes
    return shapes | {"bbox_head.center_prior.mean": (80, 2), "bbox_head.center_prior.sigma": (80, 2)}
