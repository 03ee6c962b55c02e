"""The task-aligned head of TOOD (Feng et al., ICCV 2021, section 3.1): one tower, a decomposition per task, aligned predictions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from detkit.config import Section
from detkit.geometry import DeltaBoxCoder, Grid, Priors, boxes_to_ltrb, ltrb_to_boxes, square_anchors
from detkit.layers import Scale, Tower, init_conv, sample_channels
from detkit.structures import DenseOutputs

from .registry import DENSE_HEAD_REGISTRY

__all__ = ["TOODHead", "TaskDecomposition", "aligned_logits"]


def aligned_logits(logits: Tensor, alignment: Tensor) -> Tensor:
    """Logits of the aligned probability ``sqrt(sigmoid(logits) * sigmoid(alignment))`` (TOOD, equation 5), in float32.

    Args:
        logits: of the classes, any shape.
        alignment: logit of the quality of a location, broadcast to ``logits``.

    Returns:
        logits in the shape of ``logits``, at most 23 (a probability that is 1 in float32).
    """
    log_probability = (F.logsigmoid(logits.float()) + F.logsigmoid(alignment.float())) / 2
    log_probability = log_probability.clamp(max=-1e-10)
    return log_probability - (-log_probability.expm1()).log()


class TaskDecomposition(nn.Module):
    """Makes a task's own features from all layers of the tower, weighing the layers by attention (TOOD, equations 2 to 4).

    Args:
        num_layers: n, of the tower.
        channels: c, of each layer and of the output.
        norm: a Detectron2 norm name, ``""`` for none.
    """

    def __init__(self, *, num_layers: int, channels: int, norm: str = "GN") -> None:
        super().__init__()
        width, hidden = num_layers * channels, channels // 8
        self.attention = nn.Sequential(Conv2d(width, hidden, 1), nn.ReLU(), Conv2d(hidden, num_layers, 1), nn.Sigmoid())
        self.reduction = Conv2d(width, channels, 1, bias=not norm, norm=get_norm(norm, channels))
        for module in self.attention:
            if isinstance(module, Conv2d):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.zeros_(module.bias)
        init_conv(self.reduction)

    def forward(self, layers: Tensor, pooled: Tensor) -> Tensor:
        """Features (B, c, H, W) of the stacked layers (B, n*c, H, W) and of their mean (B, n*c, 1, 1).

        The attention is multiplied into the weights of the reduction, which are small, rather than into the layers.
        """
        (batch, width, height, columns), channels = layers.shape, self.reduction.out_channels
        attention = self.attention(pooled).reshape(batch, 1, -1, 1)
        weight = (self.reduction.weight.reshape(1, channels, -1, channels) * attention).reshape(batch, channels, width)
        x = torch.bmm(weight.to(layers), layers.flatten(2)).reshape(batch, channels, height, columns)
        if self.reduction.bias is not None:
            x = x + self.reduction.bias[:, None, None]
        return F.relu(x if self.reduction.norm is None else self.reduction.norm(x))


@DENSE_HEAD_REGISTRY.register()
class TOODHead(nn.Module):
    """Classes and boxes from one tower of task-interactive features, each aligned by what both tasks see.

    Class logits are those of the aligned probability, so that every loss and post-processing takes them as any others; there is no
    separate quality. Boxes are distances in strides, decoded already: their coder is ``PointBoxCoder("linear")``. Each side of a coarse
    box is read at a predicted position nearby (equation 6); where that gives no valid box, the coarse one stays (mmdetection).

    Args:
        num_classes: K, without a background class.
        in_channels: width of the pyramid.
        num_levels: of the pyramid.
        num_anchors: per location, must be 1.
        tower: of both tasks, with 6 convolutions in the paper; the first two are deformable with four groups of offsets in the "dconv"
            models. Its width is that of all layers.
        coarse_box: ``"point"``: exponential distances to the location; ``"anchor"``: deltas of a square anchor.
        anchor_scale: side of that anchor in strides.
        grid_offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.
        prior_prob: initial value of both factors of the class probability.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        num_levels: int,
        tower: Tower,
        num_anchors: int = 1,
        coarse_box: Literal["point", "anchor"] = "point",
        anchor_scale: float = 8.0,
        grid_offset: float = 0.5,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        if num_anchors != 1:
            raise ValueError(f"TOODHead predicts one box per location, not {num_anchors}: give ANCHORS one scale and one ratio.")
        if tower.num_convs < 1:
            raise ValueError("TOODHead's tower needs one convolution at least.")
        if coarse_box not in ("point", "anchor"):
            raise ValueError(f"TOODHead's coarse boxes start from a 'point' or an 'anchor', not '{coarse_box}'.")
        channels, width = tower.channels, tower.num_convs * tower.channels
        self.num_classes = num_classes
        self.coarse_box = coarse_box
        self.grid_offset = grid_offset
        self.cell_anchors = square_anchors([1], [anchor_scale])
        self.delta_coder = DeltaBoxCoder(clamp_below=True)
        self.tower = tower.build(in_channels)
        self.cls_decomposition = TaskDecomposition(num_layers=tower.num_convs, channels=channels, norm=tower.norm)
        self.box_decomposition = TaskDecomposition(num_layers=tower.num_convs, channels=channels, norm=tower.norm)
        self.cls_score = Conv2d(channels, num_classes, kernel_size=3, padding=1)
        self.box_pred = Conv2d(channels, 4, kernel_size=3, padding=1)
        self.alignment = _interactive_predictor(width, channels // 4, 1)
        self.offset_pred = _interactive_predictor(width, channels // 4, 8, std=0.001)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))
        bias = -math.log((1 - prior_prob) / prior_prob)
        init_conv(self.cls_score, bias=bias)
        init_conv(self.box_pred)
        nn.init.constant_(self.alignment[-1].bias, bias)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, node: Section) -> dict[str, Any]:
        """From the section of a detector.

        Raises:
            ConfigError: keys that only a head of another kind can follow.
        """
        reason = "for TOODHead, which decodes its boxes and has no quality branch"
        for key, value in (("BOX_CODER.NAME", "linear"), ("HEAD.QUALITY", "none")):
            if node.value(key) != value:
                raise node.refusal(key, f"'{value}' {reason}")
        for key in ("ANCHORS.SCALES", "ANCHORS.RATIOS"):
            if len(node.value(key)) != 1:
                raise node.refusal(key, "a single number for TOODHead, which predicts one box per location")
        node.check({"HEAD.NUM_CONVS": "[1, inf)", "HEAD.DCN_ON_FIRST_CONVS": f"[0, {node.HEAD.NUM_CONVS}]"})
        others = ("DCN_ON_LAST_CONV", "NUM_SHARED_CONVS", "SCALES", "BOX_BIAS", "FILTER_SIZE", "FILTER_LEVELS")
        node.refuse_unread([f"HEAD.{key}" for key in others], "TOODHead")
        return {
            "tower": Tower(
                channels=node.HEAD.CHANNELS,
                num_convs=node.HEAD.NUM_CONVS,
                norm=node.HEAD.NORM,
                bias=node.HEAD.TOWER_BIAS,
                deformable=range(node.HEAD.DCN_ON_FIRST_CONVS),
                offset_groups=4,
            ),
            "coarse_box": node.HEAD.COARSE_BOX,
            "anchor_scale": node.ANCHORS.SCALES[0],
            "grid_offset": node.ANCHORS.OFFSET,
            "prior_prob": node.HEAD.PRIOR_PROB,
        }

    def forward(self, features: list[Tensor]) -> DenseOutputs:
        """Raw outputs of features (B, C, H, W), one per level from fine to coarse."""
        logits, boxes = [], []
        for feature, scale in zip(features, self.scales, strict=True):
            layers = self._tower_layers(feature)
            pooled = F.adaptive_avg_pool2d(layers, 1)
            logits.append(aligned_logits(self.cls_score(self.cls_decomposition(layers, pooled)), self.alignment(layers)))
            raw = self.box_pred(self.box_decomposition(layers, pooled))
            boxes.append(self._aligned_distances(raw.float(), scale, self.offset_pred(layers).float()))
        return DenseOutputs(logits, boxes, None)

    def _tower_layers(self, x: Tensor) -> Tensor:
        """All layers of the tower, (B, n*c, H, W)."""
        layers = []
        for conv in self.tower:
            x = conv(x)
            layers.append(x)
        return torch.cat(layers, dim=1)

    def _aligned_distances(self, raw: Tensor, scale: nn.Module, offsets: Tensor) -> Tensor:
        """Distances ltrb in strides (B, 4, H, W), negative where the location lies outside its box."""
        height, width = raw.shape[-2:]
        grid = Grid(((height, width),), (1,), self.grid_offset, raw.device)
        coarse = self.coarse_boxes(raw.flatten(2).transpose(1, 2), scale, grid).transpose(1, 2).unflatten(2, (height, width))
        boxes = sample_channels(coarse, offsets)
        valid = (boxes[:, :2] <= boxes[:, 2:]).all(dim=1, keepdim=True)
        boxes = torch.where(valid, boxes, coarse).movedim(1, -1)
        return boxes_to_ltrb(boxes, grid.points.reshape(height, width, 2)).movedim(-1, 1)

    def coarse_boxes(self, raw: Tensor, scale: nn.Module, grid: Grid) -> Tensor:
        """Boxes xyxy in strides (B, H*W, 4) of the raw regression (B, H*W, 4) on a grid of stride 1."""
        if self.coarse_box == "point":
            return ltrb_to_boxes(scale(raw.exp()), grid.points)
        return self.delta_coder.decode(scale(raw), Priors(grid, self.cell_anchors))


def _interactive_predictor(in_channels: int, hidden: int, out_channels: int, *, std: float = 0.01) -> nn.Sequential:
    """1x1 and 3x3 convolution on the features of both tasks."""
    predictor = nn.Sequential(Conv2d(in_channels, hidden, 1), nn.ReLU(), Conv2d(hidden, out_channels, 3, padding=1))
    for module in predictor:
        if isinstance(module, Conv2d):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
    return predictor
