"""Two processes on halves of each batch train like one process on all of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from detkit.engine import NonFiniteLossError, Trainer, launch
from tests.toys.datasets import make_toy_data, register_toy_data, train_on_toy_data
from tests.toys.detectors import tiny_cfg, tiny_sparse_cfg


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


class _PoisonTheSecond(Trainer):
    """The second worker's weights hold a NaN from iteration 2 on."""

    def run_step(self) -> None:
        if self.iter == 2 and comm.get_rank() == 1:
            head = self.model.head
            poisoned = head.stages[1].cls_score.bias if self.cfg.MODEL.META_ARCHITECTURE == "SparseRCNN" else head.scales[0].scale
            poisoned.data.fill_(float("nan"))
        super().run_step()


def _train_poisoned(cfg: Any, json_file: str, folder: str) -> None:
    torch.set_num_threads(1)
    register_toy_data(Path(json_file), "toy")
    try:
        _PoisonTheSecond(cfg).train()
    except NonFiniteLossError as error:
        Path(folder, f"error{comm.get_rank()}").write_text(str(error))


def _dense(method: str) -> Any:
    return tiny_cfg(method)


def _lsnet() -> Any:
    cfg = tiny_cfg("LSNet")
    cfg.MODEL.LSNET.HEAD.DEFORMABLE_TOWERS, cfg.MODEL.LSNET.HEAD.START_SIZE = False, 2.0
    cfg.INPUT.MAPPER = "LandmarkMapper"
    return cfg


#: DW is not among them: on so few objects its normalizers reach their bound, which depends on the number of workers
METHODS = {
    "FCOS": partial(_dense, "FCOS"),
    "ATSS": partial(_dense, "ATSS"),
    "LSNet": _lsnet,
    "SparseRCNN": tiny_sparse_cfg,
}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "loss"), [("ATSS", "loss_box"), ("SparseRCNN", "loss_giou")])
def test_a_nan_in_one_worker_stops_all_and_is_named(tmp_path: Path, method: str, loss: str) -> None:
    json_file = make_toy_data(tmp_path / "data")
    cfg = train_on_toy_data(METHODS[method](), "toy", tmp_path / "out")
    launch(_train_poisoned, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(cfg, str(json_file), str(tmp_path)))
    first, second = ((tmp_path / f"error{rank}").read_text() for rank in range(2))
    assert first == second
    assert "iteration 2" in first and f"{loss} = nan" in first and "worker 1: loss" in first and "worker 0" not in first
    assert (tmp_path / "out" / "model_nan_iter0000002.pth").exists()


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_two_processes_equal_those_of_one(tmp_path: Path, method: str) -> None:
    json_file = make_toy_data(tmp_path / "data", num_images=12)
    losses = []
    for processes in (1, 2):
        cfg = train_on_toy_data(METHODS[method](), "toy", tmp_path / f"out{processes}")
        cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = (), 20, (), 0
        cfg.INPUT.RANDOM_FLIP = "horizontal"
        # at ten times these rates training amplifies the last bit of a sum a hundredfold in 20 iterations
        cfg.SOLVER.BASE_LR = 0.0005 if method == "SparseRCNN" else 0.003
        record = str(tmp_path / f"{processes}.json")
        meeting = f"file://{tmp_path / 'meeting'}"
        launch(_train, processes, dist_url=meeting, device="cpu", args=(cfg, str(json_file), record))
        losses.append(json.loads(Path(record).read_text()))
    one, two = losses
    assert len(one) == len(two) == 20
    for iteration, (alone, together) in enumerate(zip(one, two, strict=True)):
        # what one sum rounds differently grows from step to step
        assert together == pytest.approx(alone, rel=1e-5 if iteration < 10 else 4e-5), f"iteration {iteration}"
    assert one[-1]["total_loss"] < one[0]["total_loss"]
