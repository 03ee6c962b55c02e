"""A head whose quality branch compares a location with its neighbors, on its own level and on the next ones (DeFCN, section 3.3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detkit.config import Section
from detkit.layers import MaxFiltering3d, Tower

from .dense_head import DenseHead
from .registry import DENSE_HEAD_REGISTRY

__all__ = ["MaxFilteringHead"]


@DENSE_HEAD_REGISTRY.register()
class MaxFilteringHead(DenseHead):
    """:class:`DenseHead` with 3D max filtering before the quality branch on its box tower, so that one of several locations that see the
    same object can stand out (Wang et al., End-to-End Object Detection with Fully Convolutional Network, CVPR 2021, section 3.3).

    The quality is a factor of the class probability that is learned with it: ``LOSS.CRITERION: "weighted"``.

    Args:
        in_channels, tower: as in :class:`DenseHead`.
        filter_size: side of the window in cells, odd (the paper: 3).
        filter_levels: levels that the window spans beside its own, even (the paper: 2).
        others: of :class:`DenseHead`; ``quality`` is ``"box"``.
    """

    unread_keys = ("HEAD.COARSE_BOX", "HEAD.DCN_ON_FIRST_CONVS")
    needs_weighted_loss = True

    def __init__(self, *, in_channels: int, tower: Tower, filter_size: int = 3, filter_levels: int = 2, **others: Any) -> None:
        if others.get("quality", "box") != "box":
            raise ValueError(f"The quality branch of MaxFilteringHead sits on 'box', not '{others['quality']}'.")
        super().__init__(in_channels=in_channels, tower=tower, **others)
        self.filter = MaxFiltering3d(self.box_pred.in_channels, size=filter_size, levels=filter_levels, norm=tower.norm)

    @classmethod
    def from_config(cls, node: Section) -> dict[str, Any]:
        """From the section of a detector.

        Raises:
            ConfigError: the quality sits elsewhere than on the box tower, a window without a middle, or a norm other than GN.
        """
        if node.HEAD.QUALITY != "box":
            raise node.refusal("HEAD.QUALITY", "'box' for MaxFilteringHead, which filters what the box tower gives")
        if node.HEAD.FILTER_SIZE % 2 == 0:
            raise node.refusal("HEAD.FILTER_SIZE", "odd: the location lies in the middle of its window")
        if node.HEAD.FILTER_LEVELS % 2:
            raise node.refusal("HEAD.FILTER_LEVELS", "even: half of the levels are finer, half coarser")
        if node.HEAD.NORM not in ("", "GN"):
            raise node.refusal("HEAD.NORM", "'GN' or '' for MaxFilteringHead, one filter of which serves all levels")
        return super().from_config(node) | {"filter_size": node.HEAD.FILTER_SIZE, "filter_levels": node.HEAD.FILTER_LEVELS}

    def qualities(self, features: list[Tensor]) -> list[Tensor]:
        return super().qualities(self.filter(features))
