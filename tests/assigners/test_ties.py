"""What assigners promise where two objects have the same right to a location: the one that stands first has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detkit.assigners import AssignContext, SoftAssignment, build_assigner
from detkit.config import get_cfg
from detkit.structures import GroundTruth, HardAssignment, Predictions
from tests.toys.scenes import NUM_CLASSES, make_gt, make_priors

FIRST = [
    "ATSSAssigner",
    "CentroidAssigner",
    "FCOSAssigner",
    "FoveaBoxAssigner",
    "IoUAssigner",
    "OTAAssigner",
    "PAAAssigner",
    "PredictedATSSAssigner",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
]
LAST_NEGATIVE = ["AutoAssignAssigner", "DWAssigner", "MuSuAssigner"]


def twins() -> AssignContext:
    """Three equal objects of one class, between them one elsewhere; predictions that are the same for all three."""
    box = [20.0, 20.0, 84.0, 76.0]
    gt, priors = make_gt([([box, [90.0, 4.0, 120.0, 40.0], box, box], [1, 0, 1, 1])]), make_priors()
    rng = torch.Generator().manual_seed(0)
    boxes = torch.tensor(box) + 4 * torch.randn(1, priors.num_priors, 4, generator=rng)
    logits = torch.randn(1, priors.num_priors, NUM_CLASSES, generator=rng)
    return AssignContext(gt, priors, Predictions(logits, boxes))


def assign(name: str, context: AssignContext) -> HardAssignment | SoftAssignment:
    cfg = get_cfg()
    cfg.MODEL.ASSIGNERS.FOVEABOX.SIZES, cfg.MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST = [32, 64, 128], [64, 128]
    return build_assigner(name, cfg, key="MODEL.FCOS.ASSIGNER", num_classes=NUM_CLASSES)(context)


def owners(result: HardAssignment | SoftAssignment) -> set[int]:
    if isinstance(result, HardAssignment):
        return set(result.gt_index[result.gt_index >= 0].tolist())
    return set(result.pairs.gt_index[result.positive_weight > 0].tolist())


@pytest.mark.parametrize("name", FIRST)
def test_the_first_of_equal_objects_has_the_locations(name: str) -> None:
    context = twins()
    found = owners(assign(name, context))
    assert 0 in found and not found & {2, 3}
    # and it is the place in the list that decides: in reverse the last one is the first
    flipped = GroundTruth(context.gt.boxes.flip(1), context.gt.classes.flip(1), context.gt.valid.flip(1))
    assert owners(assign(name, replace(context, gt=flipped))) & {0, 1, 3} == {0}


@pytest.mark.parametrize("name", LAST_NEGATIVE)
def test_the_last_of_equal_objects_decides_a_negative(name: str) -> None:
    result = assign(name, twins())
    deciding = result.pairs.gt_index[result.counts_negative]
    assert 3 in deciding and not set(deciding.tolist()) & {0, 2}
    assert {0, 2, 3} <= set(result.pairs.gt_index.tolist())
