"""A step with two thousand objects in an image needs less than a gigabyte beside the network. Counted on the device "meta", whose tensors
have shapes alone: what lives at a time is the sum of their bytes."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.speed.test_waits import cfg_of
from tests.toys.detectors import random_inputs
from tests.toys.devices import launches_of_step, matched_by_hand

#: all that find their candidates among the locations inside an object
WEIGHTINGS = ("AutoAssign", "FoveaBox", "MuSu", "OneNet", "PAA", "POTO", "QualityATSS", "SimOTA", "TaskAligned")

SIZE, OBJECTS = (800, 1344), 2000
GIGABYTE = 1 << 30


class Living(TorchDispatchMode):
    """The most bytes of tensors that lived at a time, of those made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def crowded() -> list[dict[str, Any]]:
    """One image of objects whose sides are log-uniform from 8 to 600 pixels."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(8), np.log(600), (OBJECTS, 2)))
    corners = rng.uniform(0, 1, (OBJECTS, 2)) * (np.array(SIZE[::-1]) - sides)
    data = random_inputs(1, size=SIZE, num_boxes=OBJECTS)
    data[0]["instances"].gt_boxes = Boxes(torch.from_numpy(np.concatenate([corners, corners + sides], axis=1).astype(np.float32)))
    data[0]["instances"].gt_landmarks = torch.ones(OBJECTS, 4, 3)  # LSNet's extreme points; only their number counts
    return data


@pytest.mark.parametrize("name", ["FCOS", "ATSS", "DW", "LSNet bbox", "SparseRCNN", *(f"DW {name}Assigner" for name in WEIGHTINGS)])
def test_two_thousand_objects_need_less_than_a_gigabyte(name, monkeypatch):
    matched_by_hand(monkeypatch)
    cfg = cfg_of(name)
    if name == "SparseRCNN":
        cfg.MODEL.SPARSE_RCNN.NUM_CLASSES, cfg.MODEL.SPARSE_RCNN.NUM_PROPOSALS, cfg.MODEL.SPARSE_RCNN.NUM_STAGES = 80, 300, 6
    else:
        cfg.MODEL[name.split()[0].upper()].NUM_CLASSES = 80
    with Living() as living:
        launches_of_step(cfg, crowded(), monkeypatch)
    assert 1 << 20 < living.peak < GIGABYTE


def test_what_no_longer_lives_is_not_counted():
    with Living() as living:
        for _ in range(3):
            first = torch.empty(1000, device="meta")
            second = first.view(10, 100) + 1
            del first, second
    assert living.peak == 2 * 4000 and living.now == 0
