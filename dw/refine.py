"""Box refinement (DW, section 3.4): each side of a box is read where it is easiest to see, near the side itself."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from detkit.config import Section
from detkit.dense.heads import DENSE_HEAD_REGISTRY, DenseHead
from detkit.geometry import Grid, boxes_to_ltrb, ltrb_to_boxes
from detkit.layers import Tower, init_conv, sample_channels

__all__ = ["RefiningHead", "refine_distances"]


def refine_distances(ltrb: Tensor, offsets: Tensor, *, grid_offset: float = 0.5) -> Tensor:
    """Distances that the points on a box's own sides predict (DW, equations 9 and 10).

    The boundary points lie in the middle rows and columns of the location, on the four sides, moved by the offsets. What is read there is
    the position of the side, so that the distance to it takes the point's own position into account. (Equation 10 adds the offset to the
    distance for all four sides; for left and top that contradicts equation 9, and the official code reads positions, as here.) A point
    outside the map reads position 0, as in the official code.

    Args:
        ltrb: (B, 4, H, W) coarse distances to left, top, right and bottom in strides, not negative.
        offsets: (B, 8, H, W) in cells: (down, right) of the left, top, right and bottom boundary point.
        grid_offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.

    Returns:
        (B, 4, H, W) distances in strides, negative where the location lies outside its refined box. Both inputs receive gradient.
    """
    height, width = ltrb.shape[-2:]
    points = Grid(((height, width),), (1,), grid_offset, ltrb.device).points.reshape(height, width, 2)
    coarse = ltrb_to_boxes(ltrb.movedim(1, -1), points).movedim(-1, 1)
    left, top, right, bottom = ltrb.unbind(1)
    still = torch.zeros_like(left)
    to_sides = torch.stack([still, -left, -top, still, still, right, bottom, still], dim=1)
    refined = sample_channels(coarse, to_sides + offsets)
    return boxes_to_ltrb(refined.movedim(1, -1), points).movedim(-1, 1)


@DENSE_HEAD_REGISTRY.register()
class RefiningHead(DenseHead):
    """:class:`DenseHead` whose boxes are refined at four boundary points. Only the refined boxes are seen by losses and assignment.

    Args:
        grid_offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.
        in_channels, tower, num_anchors: as in :class:`DenseHead`; one anchor per location, box coder ``"relu"``.
        others: of :class:`DenseHead`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        tower: Tower,
        num_anchors: int = 1,
        grid_offset: float = 0.5,
        **others: Any,
    ) -> None:
        if num_anchors != 1:
            raise ValueError(f"RefiningHead predicts one box per location, not {num_anchors}: give ANCHORS one scale and one ratio.")
        super().__init__(in_channels=in_channels, tower=tower, num_anchors=num_anchors, **others)
        self.grid_offset = grid_offset
        self.offset_pred = Conv2d(self.box_pred.in_channels, 8, kernel_size=3, padding=1)
        init_conv(self.offset_pred)

    @classmethod
    def from_config(cls, node: Section) -> dict[str, Any]:
        """From the section of a detector.

        Raises:
            ConfigError: a box coder other than ``"relu"``, or several anchors per location.
        """
        if node.BOX_CODER.NAME != "relu":
            raise node.refusal("BOX_CODER.NAME", "'relu' for RefiningHead, which refines distances in strides")
        for key in ("ANCHORS.SCALES", "ANCHORS.RATIOS"):
            if len(node.value(key)) != 1:
                raise node.refusal(key, "a single number for RefiningHead, which predicts one box per location")
        return super().from_config(node) | {"grid_offset": node.ANCHORS.OFFSET}

    def regress(self, feature: Tensor, scale: nn.Module) -> Tensor:
        """Refined distances (B, 4, H, W) in strides, before the box coder's ReLU."""
        coarse = super().regress(feature, scale).float().relu()
        return refine_distances(coarse, self.offset_pred(feature).float(), grid_offset=self.grid_offset)
