"""The learned proposals: boxes and features that belong to no image (Sparse R-CNN, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from detectron2.layers import cat
from torch import Tensor, nn

__all__ = ["INITIAL_BOXES", "LearnedProposals", "center_boxes", "grid_boxes", "image_boxes", "random_boxes", "scales_boxes"]


#: Proposals are at least so wide and high, relative to the image.
MIN_SIZE = 1e-3


class LearnedProposals(nn.Module):
    """Boxes, relative to the image, and a feature for each of them, both learned.

    Nothing keeps learned sizes positive. The official code ends with an assertion where one is not; here :data:`MIN_SIZE` is taken
    instead, since a negative size would turn the boxes of all stages inside out.

    Args:
        initial_boxes: (N, 4) center, width, height in [0, 1], relative to the image.
        channels: of the features, which start normally distributed; 0: no features, for heads that use none.
    """

    features: nn.Parameter | None

    def __init__(self, *, initial_boxes: Tensor, channels: int) -> None:
        super().__init__()
        self.boxes = nn.Parameter(initial_boxes.clone())
        self.features = nn.Parameter(torch.randn(len(initial_boxes), channels)) if channels else None

    def forward(self, image_sizes: Tensor) -> tuple[Tensor, Tensor | None]:
        """The proposals of every image.

        Args:
            image_sizes: (B, 2) height and width in pixels, without padding.

        Returns:
            boxes (B, N, 4) xyxy in pixels; features (B, N, C) or None.
        """
        centers, sizes = self.boxes[:, :2], self.boxes[:, 2:].clamp(min=MIN_SIZE)
        relative = cat([centers - sizes / 2, centers + sizes / 2], dim=1)
        scale = image_sizes.flip(1).repeat(1, 2)  # (B, 4): width, height, width, height
        features = None if self.features is None else self.features.expand(image_sizes.shape[0], -1, -1)
        return relative * scale[:, None], features


def image_boxes(count: int) -> Tensor:
    """Boxes (count, 4) that cover the whole image."""
    return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(count, 1)


def center_boxes(count: int) -> Tensor:
    """Boxes (count, 4) in the center, a tenth of the image high and wide."""
    return torch.tensor([0.5, 0.5, 0.1, 0.1]).repeat(count, 1)


def grid_boxes(count: int) -> Tensor:
    """Boxes (count, 4) that tile the image: as many rows as columns, where that gives ``count``, else rows of unequal numbers.

    The paper refers to the grid of G-CNN, which has several scales and not as many boxes as there are proposals; this one has one scale.
    """
    rows = max(1, round(math.sqrt(count)))
    boxes = []
    for row in range(rows):
        columns = count * (row + 1) // rows - count * row // rows
        boxes += [[(column + 0.5) / columns, (row + 0.5) / rows, 1 / columns, 1 / rows] for column in range(columns)]
    return torch.tensor(boxes)


def random_boxes(count: int) -> Tensor:
    """Boxes (count, 4) with normally distributed centers and sizes, mean 0.5 and standard deviation 0.25, at least 0.02 high and wide."""
    boxes = 0.5 + 0.25 * torch.randn(count, 4)
    return torch.cat([boxes[:, :2].clamp(0, 1), boxes[:, 2:].clamp(0.02, 1)], dim=1)


def scales_boxes(count: int) -> Tensor:
    """Boxes (count, 4) of a half, a quarter and an eighth of the image's width and height, a third each, every size on a grid of its own.

    Not from the paper: for short trainings, in which proposals are hardly learned, so that some of them have to overlap objects of any size
    from the start.
    """
    parts = []
    for rank, size in enumerate((0.5, 0.25, 0.125)):
        number = (count + 2 - rank) // 3
        centers = grid_boxes(number)[:, :2] if number else torch.zeros(0, 2)
        parts.append(torch.cat([size / 2 + (1 - size) * centers, torch.full((number, 2), size)], dim=1))
    return torch.cat(parts)


#: by the name in ``MODEL.SPARSE_RCNN.PROPOSAL_INIT`` (table 6, but for "scales")
INITIAL_BOXES: dict[str, Callable[[int], Tensor]] = {
    "center": center_boxes,
    "grid": grid_boxes,
    "image": image_boxes,
    "random": random_boxes,
    "scales": scales_boxes,
}
