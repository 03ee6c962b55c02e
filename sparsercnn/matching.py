"""One-to-many matching in early stages: which objects, how often, each stage is matched with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.structures import GroundTruth

__all__ = ["objects_of_stages", "original_objects"]


def objects_of_stages(gt: GroundTruth, matches: Sequence[int], num_proposals: int) -> GroundTruth:
    """The objects of every stage of every image, each as often as the stage matches it, as more images of one batch.

    Repeated objects that are matched one to one give one-to-many matching (Jia et al., *DETRs with Hybrid Matching*, section 3.2; here in
    early stages, there in additional queries or epochs). An image in which the repeated objects would outnumber the proposals repeats its
    objects less often, but all equally often.

    Args:
        gt: the objects of B images, padded to G.
        matches: how often each stage matches an object, S numbers of at least 1.
        num_proposals: N, of an image.

    Returns:
        The objects of S * B images, stage by stage, padded to G * the largest number of ``matches``; copy ``i`` of object ``j`` is in place
        ``i * G + j``.
    """
    stages, copies = len(matches), max(matches)
    boxes, classes = gt.boxes.repeat(stages, copies, 1), gt.classes.repeat(stages, copies)
    if copies == 1:
        return GroundTruth(boxes, classes, gt.valid.repeat(stages, 1))
    room = num_proposals // gt.valid.sum(1).clamp(min=1)  # (B,) copies of each object for which there are proposals
    wanted = torch.cat([room.clamp(max=number) for number in matches]).clamp(min=1)  # (S * B,)
    used = torch.arange(copies, device=wanted.device) < wanted[:, None]
    return GroundTruth(boxes, classes, (used[:, :, None] & gt.valid.repeat(stages, 1)[:, None]).flatten(1))


def original_objects(gt_index: Tensor, num_objects: int) -> Tensor:
    """The objects, -1 for none, that indices of their copies stand for.

    Args:
        gt_index: of any shape, int64, as :func:`objects_of_stages` counts them, -1 for none.
        num_objects: G.
    """
    return torch.where(gt_index >= 0, gt_index % max(num_objects, 1), gt_index)
