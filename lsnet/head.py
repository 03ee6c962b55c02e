"""The two stages of LSNet on a feature pyramid (LSNet, section 3.2 and figure 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from detkit.layers import Tower, init_conv

from .corners import CornerMaps, CornerVerification
from .cross_iou import cross_coordinates
from .landmarks import LandmarkSet
from .reading import Reading
from .sampling import LandmarkSampler, kernel_offsets
from .tasks import Task

__all__ = ["LSHead", "LSOutputs", "SamplerFactory"]

#: components start at so many cells at least
MIN_START = 0.25

#: makes what samples features at landmarks, from (in_channels, channels)
SamplerFactory = Callable[[int, int], LandmarkSampler]


@dataclass(frozen=True)
class LSOutputs:
    """Raw outputs, one map per level. Vectors are cross coordinates in cells, of every set of landmarks by its name.

    Attributes:
        logits: per level (B, K, H, W) class logits.
        init: name -> per level (B, 4 * (V + 1), H, W), first stage.
        refine: the same of the second stage; empty for a detector of one stage.
        corners: corner maps per level, with corner point verification.
    """

    logits: list[Tensor]
    init: Mapping[str, list[Tensor]]
    refine: Mapping[str, list[Tensor]]
    corners: list[CornerMaps] | None = None

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level."""
        return tuple((x.shape[-2], x.shape[-1]) for x in self.logits)

    @property
    def final(self) -> Mapping[str, list[Tensor]]:
        """The vectors of the last stage."""
        return self.refine or self.init


class _OutputBranch(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution: a branch of the first stage."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.out = Conv2d(channels, out_channels, kernel_size=1)
        init_conv(self.conv)
        init_conv(self.out)

    def forward(self, feature: Tensor) -> Tensor:
        return self.out(self.conv(feature).relu())

    @torch.no_grad()
    def start_from(self, offsets: Tensor) -> None:
        """Sets the biases of the first outputs so that, after softplus, they are the vectors of offsets (V + 1, 2) in cells."""
        components = cross_coordinates(offsets).clamp(min=MIN_START).flatten()
        assert self.out.bias is not None
        self.out.bias[: len(components)] = components.expm1().log()  # the inverse of softplus


class _RefineBranch(nn.Module):
    """The features at the anchor point and at the landmarks, added, normalized and read out: a branch of the second stage."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, norm: str, sampler: SamplerFactory | None) -> None:
        super().__init__()
        self.anchor = Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.sampler = sampler(in_channels, channels) if sampler else None
        self.norm = get_norm(norm, channels)
        self.out = Conv2d(channels, out_channels, kernel_size=1)
        init_conv(self.anchor)
        init_conv(self.out)

    def forward(self, features: Sequence[Tensor], offsets: Sequence[Tensor], reading: Reading | None = None) -> list[Tensor]:
        """Outputs of all levels from features (B, C, H, W) and the kernel offsets (B, 18, H, W) of each; ``reading``: what these read."""
        summed = [self.anchor(feature) for feature in features]
        if self.sampler is not None:
            summed = [x + at_landmarks for x, at_landmarks in zip(summed, self.sampler(features, offsets, reading), strict=True)]
        return [self.out((x if self.norm is None else self.norm(x)).relu()) for x in summed]


class LSHead(nn.Module):
    """Vectors from every location to landmarks; at these, features for better vectors and for classes. Shared by all levels.

    Args:
        task: what is regressed.
        num_classes: K, without a background class.
        in_channels: width of the pyramid.
        tower: of which there is one for classes and one for each set of landmarks, or for all sets of several tasks; its width and norm
            are also those of the branches.
        two_stages: False: classes and vectors come from the first stage (table 2).
        sampler: makes the features at landmarks; None: the second stage sees the anchor point alone ("PA" of table 3).
        gradient_share: see :func:`lsnet.sampling.kernel_offsets`.
        prior_prob: initial class probability (focal loss, section 3.3).
        start_size: half the size in cells of the typical object (:meth:`lsnet.landmarks.LandmarkSet.typical`) whose vectors the first stage
            starts from; 0: every component starts at ln 2 (official code), so that landmarks make no box and box penalties are steep.
        verification: corner maps that the second stage also reads (LSNet-CPV).
    """

    def __init__(
        self,
        *,
        task: Task,
        num_classes: int,
        in_channels: int,
        tower: Tower,
        two_stages: bool = True,
        sampler: SamplerFactory | None = None,
        gradient_share: float = 0.1,
        prior_prob: float = 0.01,
        start_size: float = 0.0,
        verification: CornerVerification | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.two_stages = two_stages
        self.gradient_share = gradient_share
        self.verification = verification
        channels, norm, width = tower.channels, tower.norm, tower.out_channels(in_channels)
        self.cls_tower = tower.build(in_channels)
        self.towers = nn.ModuleDict({name: tower.build(in_channels) for name in dict.fromkeys(map(task.tower_of, task.sets))})
        self.init = nn.ModuleDict()
        for s in task.sets:
            self.init[s.name] = branch = _OutputBranch(width, channels, self._init_channels(s))
            if start_size:
                branch.start_from(start_size * s.typical())
        self.refine = nn.ModuleDict()
        self.cls: _OutputBranch | _RefineBranch
        if two_stages:
            wide = width + (CornerMaps.NUM_CHANNELS if verification else 0)
            self.cls = _RefineBranch(wide, channels, num_classes, norm, sampler)
            for s in task.sets:
                self.refine[s.name] = _RefineBranch(wide, channels, 4 * s.num_vectors, norm, sampler)
        else:
            self.cls = _OutputBranch(width, channels, num_classes)
        init_conv(self.cls.out, bias=-math.log((1 - prior_prob) / prior_prob))

    def _init_channels(self, landmarks: LandmarkSet) -> int:
        return 4 * landmarks.num_vectors + (2 * landmarks.num_free_points if self.two_stages else 0)

    def forward(self, features: list[Tensor]) -> LSOutputs:
        """Raw outputs of features (B, C, H, W), one per level from fine to coarse."""
        cls_features = [self.cls_tower(feature) for feature in features]
        tower_features = {name: [tower(feature) for feature in features] for name, tower in self.towers.items()}
        set_features = {s.name: tower_features[self.task.tower_of(s)] for s in self.task.sets}
        corners = self._verify(cls_features, set_features)
        init, offsets = self._first_stage(set_features)
        if not isinstance(self.cls, _RefineBranch):
            return LSOutputs([self.cls(feature) for feature in cls_features], init, {}, corners)
        if corners is not None:
            cls_features = _widened(cls_features, corners)
            set_features = {name: _widened(x, corners) for name, x in set_features.items()}
        seen = self.task.landmarks.name  # by classes and landmarks alike
        reading = self.cls.sampler.read(cls_features, offsets[seen]) if self.cls.sampler is not None else None
        logits = self.cls(cls_features, offsets[seen], reading)
        refine = {}
        for name, branch in self.refine.items():
            raw = branch(set_features[name], offsets[name], reading if name == seen else None)
            refine[name] = [F.softplus(x + first.detach()) for x, first in zip(raw, init[name], strict=True)]
        return LSOutputs(logits, init, refine, corners)

    def _first_stage(self, features: Mapping[str, list[Tensor]]) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        """Vectors of the first stage, and the kernel offsets that they give, by the name of their set."""
        vectors: dict[str, list[Tensor]] = {}
        offsets: dict[str, list[Tensor]] = {}
        for s in self.task.sets:
            raw = [
                self.init[s.name](x).split((4 * s.num_vectors, self._init_channels(s) - 4 * s.num_vectors), dim=1) for x in features[s.name]
            ]
            vectors[s.name] = [F.softplus(x) for x, _ in raw]
            if self.two_stages:
                pairs = zip(vectors[s.name], (free for _, free in raw), strict=True)
                offsets[s.name] = [kernel_offsets(x, free, s, self.gradient_share) for x, free in pairs]
        return vectors, offsets

    def _verify(self, cls_features: list[Tensor], set_features: Mapping[str, list[Tensor]]) -> list[CornerMaps] | None:
        """Corner maps of all levels; what they add to the features is put into the lists."""
        if self.verification is None:
            return None
        box_features = set_features[self.task.box_landmarks.name]
        corners = []
        for level, pair in enumerate(zip(cls_features, box_features, strict=True)):
            cls_features[level], box_features[level], maps = self.verification(*pair)
            corners.append(maps)
        return corners


def _widened(features: list[Tensor], corners: list[CornerMaps]) -> list[Tensor]:
    """Features with the corner maps behind them."""
    return [torch.cat([x, maps.heat, maps.offsets], dim=1) for x, maps in zip(features, corners, strict=True)]
