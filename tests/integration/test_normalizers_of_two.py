"""Normalizers are bounded after the mean over the workers is taken: one worker with nearly nothing does not count as one with one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from detkit.assigners import SoftAssignment
from detkit.assigners.soft import PairValues
from detkit.dense.criteria import AllPriorsNormalizer, MovingClassNormalizer, PositivesNormalizer, WeightedCriterion
from detkit.engine import launch
from detkit.losses import giou_loss
from detkit.structures import GroundTruth, Predictions
from sparsercnn.criterion import FocalClassLoss, SetCriterion
from sparsercnn.head import StageOutputs


def _weighted(normalizers: list[float]) -> dict[str, torch.Tensor]:
    """One pair whose three sums are known: ln 2, 1 - GIoU 1 / 2 of a box of half the size, and 0.25 ln 2 of the background."""
    boxes, gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    assignment = SoftAssignment(
        pairs=SimpleNamespace(prior_index=zero, gt_index=zero),
        values=PairValues(torch.zeros(1), None, boxes, gt_boxes),
        positive_weight=one,
        negative_weight=0.25 * one,
        box_weight=one,
        normalizers=torch.tensor(normalizers),
    )
    predictions = Predictions(torch.zeros(1, 1, 1), boxes[None])
    gt = GroundTruth(gt_boxes[None], torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
    return WeightedCriterion(num_classes=1, box_loss=giou_loss)(predictions, assignment, gt, None)


def _sparse(num_objects: int) -> dict[str, torch.Tensor]:
    """One proposal; of the worker's image with ``num_objects`` objects the first one is matched, if there is one."""
    valid = torch.arange(3)[None] < num_objects
    gt = GroundTruth(torch.tensor([[[0.0, 0.0, 10.0, 10.0]] * 3]), torch.zeros(1, 3, dtype=torch.int64), valid)
    outputs = StageOutputs(
        torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.0, 0.0, 10.0, 5.0]]]]), torch.zeros(1, 1, 1, 2), torch.tensor([[20.0, 20.0]])
    )
    matched = torch.tensor([[[0 if num_objects else -1]]])
    return SetCriterion(num_classes=1, class_loss=FocalClassLoss(), giou_weight=2.0)(outputs, matched, gt)


def _measure(folder: str) -> None:
    rank = dist.get_rank()
    weighted = _weighted([[0.4, 0.2, 0.1], [3.0, 0.4, 5.1]][rank])
    positive = torch.zeros(1, 8, dtype=torch.bool)
    positive[:, : [0, 3][rank]] = True
    positives = PositivesNormalizer(min_box=1.0)(positive, 0.5 * positive)
    values = {
        "weighted": {name: float(loss) for name, loss in weighted.items()},
        "sparse": float(_sparse([0, 3][rank])["loss_cls"]),
        "positives": [float(value) for value in positives],
        "all": [float(value) for value in AllPriorsNormalizer(min_box=0.1)(positive[:, : 4 + 4 * rank], 0.5 * positive[:, : 4 + 4 * rank])],
        "moving": float(MovingClassNormalizer(start=10.0, momentum=0.5)(positive, 0.5 * positive).cls),
    }
    torch.save(values, Path(folder) / f"{rank}.pt")


def test_the_bound_comes_after_the_mean_over_the_workers(tmp_path: Path) -> None:
    launch(_measure, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(str(tmp_path),))
    ln2 = 0.6931472
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        # means: 1.7 (not 2, of 1 and 3), 0.3, which is bounded to 1, and 2.6 (not 3.05)
        expected = {"loss_cls_pos": ln2 / 1.7, "loss_cls_neg": 0.25 * ln2, "loss_box": 0.5 / 2.6}
        assert found["weighted"] == pytest.approx(expected, rel=1e-5)
        # 0 and 3 objects: 1.5 (not 2, of 1 and 3); the focal loss of one logit 0 as background or object, times 2
        assert found["sparse"] == pytest.approx(2 * (0.75, 0.25)[rank] * 0.25 * ln2 / 1.5, rel=1e-5)
        assert found["positives"] == pytest.approx([1.5, 1.0, 1.5])
        assert found["all"] == pytest.approx([6.0, 0.75, 1.5])
        assert found["moving"] == pytest.approx(0.5 * 10 + 0.5 * 1.5)
