"""The feature pyramid on any bottom-up network, with the extra levels that dense detectors choose between."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from detkit.config import Section
from detkit.layers import keep_constants, train_affine

from .deformable import check_backbone

__all__ = ["LinearP6P7", "build_bottom_up", "build_fpn_backbone"]


class LinearP6P7(LastLevelP6P7):
    """P6 and P7 by strided 3x3 convolutions without the ReLU between them (mmdetection's ATSS, LSNet).

    Args:
        in_channels, out_channels, in_feature: as of Detectron2's ``LastLevelP6P7``.
        norm: a Detectron2 norm name; with one the convolutions have no bias.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str, norm: str = "") -> None:
        super().__init__(in_channels, out_channels, in_feature)
        if norm:
            for name, width in (("p6", in_channels), ("p7", out_channels)):
                conv = Conv2d(width, out_channels, 3, stride=2, padding=1, bias=False, norm=get_norm(norm, out_channels))
                c2_xavier_fill(conv)
                setattr(self, name, conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(p6)]


@BACKBONE_REGISTRY.register()
def build_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on the backbone ``MODEL.FPN.BOTTOM_UP``, with extra levels by ``MODEL.FPN.TOP_BLOCK``.

    With ``build_resnet_backbone`` below and TOP_BLOCK ``"c5"`` it is ``build_retinanet_resnet_fpn_backbone``, key for key.

    Raises:
        ConfigError: FPN.IN_FEATURES empty or not given by the bottom-up network; an unknown builder or TOP_BLOCK; deformable stages with
            Detectron2's own builder below.
    """
    node = cfg.MODEL.FPN
    bottom_up = build_bottom_up(cfg, input_shape)
    shapes = bottom_up.output_shape()
    return FPN(
        bottom_up=bottom_up,
        in_features=list(node.IN_FEATURES),
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=_top_block(cfg, shapes),
        fuse_type=node.FUSE_TYPE,
    )


def build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The backbone ``MODEL.FPN.BOTTOM_UP``, which gives the contiguous features ``MODEL.FPN.IN_FEATURES``.

    Raises:
        ConfigError: see :func:`build_fpn_backbone`.
    """
    node = cfg.MODEL.FPN
    check_backbone(cfg)
    bottom_up = BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape)
    if cfg.MODEL.BACKBONE.TRAIN_AFFINE and not train_affine(bottom_up):
        raise Section(cfg, "MODEL.BACKBONE").refusal(
            "TRAIN_AFFINE",
            f"False for {node.BOTTOM_UP} without batch norms of fixed statistics outside of its frozen stages; for a ResNet they are "
            "MODEL.RESNETS.NORM FrozenBN, for a network of torchvision or timm MODEL.BACKBONE.NORM FrozenBN",
        )
    keep_constants(bottom_up)
    shapes = bottom_up.output_shape()
    if not _are_contiguous([shapes[name].stride if name in shapes else 0 for name in node.IN_FEATURES]):
        raise Section(cfg, "MODEL.FPN").refusal(
            "IN_FEATURES",
            f"contiguous outputs of {node.BOTTOM_UP}, which gives {list(shapes)}; for a ResNet set MODEL.RESNETS.OUT_FEATURES to the same",
        )
    return bottom_up


def _are_contiguous(strides: list[int]) -> bool:
    """Whether each stride is twice the one before; 0 stands for a feature that is missing."""
    return bool(strides) and strides[0] > 0 and all(b == 2 * a for a, b in pairwise(strides))


def _top_block(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> nn.Module | None:
    """The module that makes the levels above the last lateral one."""
    node = cfg.MODEL.FPN
    last = node.IN_FEATURES[-1]
    level = shapes[last].stride.bit_length() - 1
    if node.TOP_BLOCK == "none":
        return None
    if node.TOP_BLOCK == "pool":
        pool = LastLevelMaxPool()
        pool.in_feature = f"p{level}"
        return pool
    if node.RELU_BEFORE_P7 and node.TOP_BLOCK_NORM:
        raise Section(cfg, "MODEL.FPN").refusal("TOP_BLOCK_NORM", "'' with MODEL.FPN.RELU_BEFORE_P7 True")
    kind = LastLevelP6P7 if node.RELU_BEFORE_P7 else partial(LinearP6P7, norm=node.TOP_BLOCK_NORM)
    if node.TOP_BLOCK == "c5":
        return kind(shapes[last].channels, node.OUT_CHANNELS, in_feature=last)
    return kind(node.OUT_CHANNELS, node.OUT_CHANNELS, in_feature=f"p{level}")
