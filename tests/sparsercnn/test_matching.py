"""Objects that early stages match with several proposals, against SciPy's matching of each stage and image by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detkit.assigners import AssignContext, HungarianAssigner
from detkit.structures import GroundTruth, Predictions
from sparsercnn import SparseRCNN
from sparsercnn.head import StageOutputs
from sparsercnn.matching import objects_of_stages
from tests.toys.detectors import build_tiny, random_inputs

NUM_PROPOSALS = 12


def outputs_of(model: SparseRCNN, counts: Sequence[int]) -> tuple[StageOutputs, GroundTruth]:
    """Predictions for images with so many objects."""
    inputs = [random_inputs(1, num_boxes=count, seed=seed)[0] for seed, count in enumerate(counts)]
    with torch.no_grad():
        outputs = model.train().predict(model.preprocess_image(inputs))
    return outputs, GroundTruth.from_instances([item["instances"] for item in inputs])


def matched_one_by_one(outputs: StageOutputs, gt: GroundTruth, matches: Sequence[int]) -> np.ndarray:
    """Every stage and image by itself: its objects, written down as often as they are matched, with the proposals."""
    stages, batch, count = outputs.logits.shape[:3]
    expected = np.full((stages, batch, count), -1)
    for stage in range(stages):
        for image in range(batch):
            objects = gt.valid[image].nonzero().flatten()
            if not len(objects):
                continue
            often = max(1, min(matches[stage], count // len(objects)))
            alone = GroundTruth(
                gt.boxes[image : image + 1, objects], gt.classes[image : image + 1, objects], torch.ones(1, len(objects)).bool()
            )
            predictions = Predictions(outputs.logits[stage, image : image + 1], outputs.boxes[stage, image : image + 1])
            context = AssignContext(gt=alone, predictions=predictions, image_sizes=outputs.image_sizes[image : image + 1])
            costs = HungarianAssigner().costs(context)[0].numpy()
            rows, columns = linear_sum_assignment(np.tile(costs, (1, often)))
            expected[stage, image, rows] = objects.numpy()[columns % len(objects)]
    return expected


@pytest.mark.parametrize("matches", [[], [1], [3], [3, 2], [5, 1], [100]])
def test_matches_of_every_stage_and_image(matches: list[int]) -> None:
    torch.manual_seed(0)
    model = build_tiny("NUM_STAGES", 3, "MATCHES_PER_OBJECT", matches)
    outputs, gt = outputs_of(model, [3, 0, 5, 1, 20])  # of which the last are more than there are proposals
    assignments = model.assign(outputs, gt)
    assert assignments.tolist() == matched_one_by_one(outputs, gt, [*matches, 1, 1, 1][:3]).tolist()
    last = assignments[-1]
    for image, number in enumerate([3, 0, 5, 1, NUM_PROPOSALS]):
        assert len(last[image][last[image] >= 0].unique()) == (last[image] >= 0).sum() == number


def test_objects_are_repeated_equally_often_where_proposals_are_few() -> None:
    """Five objects and twelve proposals: two each, though four are asked for."""
    torch.manual_seed(0)
    model = build_tiny("MATCHES_PER_OBJECT", [4])
    outputs, gt = outputs_of(model, [5, 2])
    first, last = model.assign(outputs, gt)
    assert first[0][first[0] >= 0].bincount().tolist() == [2] * 5 and first[1][first[1] >= 0].bincount().tolist() == [4] * 2
    assert last[0][last[0] >= 0].bincount().tolist() == [1] * 5


def test_one_match_is_the_objects_themselves() -> None:
    gt = GroundTruth(torch.rand(2, 3, 4), torch.randint(0, 3, (2, 3)), torch.tensor([[True, True, False], [True, True, True]]))
    repeated = objects_of_stages(gt, [1, 1], NUM_PROPOSALS)
    assert repeated.boxes.equal(gt.boxes.repeat(2, 1, 1)) and repeated.valid.equal(gt.valid.repeat(2, 1))


def test_losses_are_divided_by_the_matches() -> None:
    """As many boxes of equal loss as are matched: a stage weighs the same, however often it matches an object."""
    torch.manual_seed(0)
    model = build_tiny("MATCHES_PER_OBJECT", [3])
    outputs, gt = outputs_of(model, [2, 1])
    logits, boxes = outputs.logits[:1].expand(2, -1, -1, -1), outputs.boxes.new_tensor([0.0, 0, 64, 64]).expand_as(outputs.boxes)
    equal = StageOutputs(logits, boxes, outputs.features, outputs.image_sizes)
    same = GroundTruth(gt.boxes.new_tensor([32.0, 32, 64, 96]).expand_as(gt.boxes), gt.classes, gt.valid)
    losses = model.criterion(equal, model.assign(equal, same), same)
    torch.testing.assert_close(losses["loss_l1_stage0"], losses["loss_l1"])
    torch.testing.assert_close(losses["loss_giou_stage0"], losses["loss_giou"])
    assert losses["loss_l1"] > 0


def test_only_early_stages_may_match_more_than_once() -> None:
    with pytest.raises(ValueError, match=r"MATCHES_PER_OBJECT is \[2, 2\]. It has to be fewer numbers than there are stages, 2"):
        build_tiny("MATCHES_PER_OBJECT", [2, 2])
    with pytest.raises(ValueError, match=r"MATCHES_PER_OBJECT is \[0\]. It has to be a list of whole numbers in \[1, 100000\]"):
        build_tiny("MATCHES_PER_OBJECT", [0])
