"""Two processes on halves of each batch train like one process on all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from detkit.engine import Trainer, launch
from tests.engine.toy import make_toy_data, register_toy_data, toy_cfg


class _Record(HookBase):
    """Writes the mean losses of every iteration."""

    def __init__(self, path: str) -> None:
        self._path, self._losses = path, []

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self._losses.append({name: value for name, (value, _) in latest.items() if "loss" in name})

    def after_train(self) -> None:
        if comm.is_main_process():
            Path(self._path).write_text(json.dumps(self._losses))


def _train(cfg: Any, json_file: str, record: str) -> None:
    torch.set_num_threads(1)
    register_toy_data(Path(json_file), "toy")
    trainer = Trainer(cfg)
    trainer.register_hooks([_Record(record)])
    trainer.train()


@pytest.mark.parametrize("method", ["FCOS", "ATSS"])
def test_losses_of_two_processes_equal_those_of_one(tmp_path: Path, method: str) -> None:
    (tmp_path / "data").mkdir()
    json_file = make_toy_data(tmp_path / "data", num_images=12)
    losses = []
    for processes in (1, 2):
        cfg = toy_cfg("toy", tmp_path / f"out{processes}", method)
        cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = (), 20, (), 0
        cfg.INPUT.RANDOM_FLIP = "horizontal"
        cfg.SOLVER.BASE_LR = 0.003  # at 0.01 this detector's training amplifies the last bit of a sum a hundredfold in 20 iterations
        record = str(tmp_path / f"{processes}.json")
        meeting = f"file://{tmp_path / 'meeting'}"
        launch(_train, processes, dist_url=meeting, device="cpu", args=(cfg, str(json_file), record))
        losses.append(json.loads(Path(record).read_text()))
    one, two = losses
    assert len(one) == len(two) == 20
    for iteration, (alone, together) in enumerate(zip(one, two, strict=True)):
        assert together == pytest.approx(alone, rel=1e-5), f"iteration {iteration}"
    assert one[-1]["total_loss"] < one[0]["total_loss"]
