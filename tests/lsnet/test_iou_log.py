"""The mean IoU over a training (figure 4)."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage

from lsnet.criterion import log_iou
from lsnet.cross_iou import VectorPairs

from .test_detector import batch_of, options
from .test_whole import model_of


def pairs_of(boxes: list[list[float]], targets: list[list[float]]) -> VectorPairs:
    nothing = torch.zeros(0)
    return VectorPairs(nothing, nothing, nothing, torch.tensor([boxes]), torch.tensor([targets]), (), True)


def test_mean_over_the_valid_positives() -> None:
    pairs = pairs_of([[0.0, 0, 2, 2], [0.0, 0, 4, 4], [5.0, 5, 6, 6]], [[0.0, 0, 2, 2], [0.0, 0, 4, 2], [0.0, 0, 1, 1]])
    with EventStorage(19) as storage:
        log_iou("iou_init", pairs, torch.tensor([[True, True, False]]))
    assert storage.latest()["iou_init"][0] == pytest.approx(0.75)


def test_a_batch_without_positives_notes_nothing() -> None:
    with EventStorage(19) as storage:
        log_iou("iou_init", pairs_of([[0.0, 0, 2, 2]], [[0.0, 0, 2, 2]]), torch.tensor([[False]]))
    assert not storage.latest()


@pytest.mark.parametrize(("iteration", "stages", "names"), [(19, 2, {"iou_init", "iou_refine"}), (19, 1, {"iou_init"}), (18, 2, set())])
def test_a_training_notes_every_stage(iteration: int, stages: int, names: set[str]) -> None:
    model = model_of("bbox", *options("HEAD.STAGES", stages, "HEAD.FEATURES", "pyramid" if stages == 2 else "point")).train()
    with EventStorage(iteration) as storage:
        model(batch_of())
    noted = {name: value for name, (value, _) in storage.latest().items() if name.startswith("iou")}
    assert set(noted) == names and all(0 <= value <= 1 for value in noted.values())
