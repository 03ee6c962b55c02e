from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase

from detkit.checkpoint import read_checkpoint
from detkit.engine import NonFiniteLossError, Trainer
from detkit.engine.data_loader import TrainLoader
from tests.toys.datasets import make_toy_data, register_toy_data


class _Losses(HookBase):
    """Keeps the losses of every iteration."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self.seen[self.trainer.iter] = {name: value for name, (value, _) in latest.items() if "loss" in name}


def _train(cfg: Any, *, resume: bool = False, hooks: tuple[HookBase, ...] = ()) -> tuple[Trainer, dict[int, dict[str, float]]]:
    trainer = Trainer(cfg)
    losses = _Losses()
    trainer.register_hooks([losses, *hooks])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer, losses.seen


class _Crash(HookBase):
    """Ends like a kill: after the checkpoint of iteration 2 there is one more iteration that is lost."""

    def after_step(self) -> None:
        if self.trainer.iter == 3:
            raise KeyboardInterrupt("crash")


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"DATALOADER.NUM_WORKERS": 2},
        {"DATALOADER.ASPECT_RATIO_GROUPING": True},
        {"SOLVER.EMA.ENABLED": True, "SOLVER.ACCUMULATE": 2},
        {"SOLVER.OPTIMIZER": "AdamW", "SOLVER.AMP.ENABLED": True},
        {"SEED": -1},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_a_resumed_run_equals_the_uninterrupted_one(cfg: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    register_toy_data(make_toy_data(tmp_path / "data", equal_sizes=False), "toy")
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN, cfg.DATASETS.TEST = "horizontal", (48, 64), ()
    cfg.merge_from_list([word for pair in options.items() for word in pair])
    crashed = _Crash()
    with pytest.raises(KeyboardInterrupt, match="crash"):
        _train(cfg, hooks=(crashed,))
    continued, second = _train(cfg, resume=True)
    cfg.SEED, cfg.OUTPUT_DIR = continued.cfg.SEED, str(tmp_path / "whole")
    whole, all_losses = _train(cfg)
    assert sorted(second) == [3, 4, 5] and sorted(all_losses) == list(range(6))
    assert second == {i: all_losses[i] for i in (3, 4, 5)}
    torch.testing.assert_close(_weights(continued), _weights(whole), rtol=0, atol=0)
    first, last = (read_checkpoint(t.checkpoints.final) for t in (continued, whole))
    assert first.keys() == last.keys() and ("ema" in first) == ("trained_model" in first) == cfg.SOLVER.EMA.ENABLED
    assert bool(first["grad_scaler"]) == cfg.SOLVER.AMP.ENABLED
    kept = ("model", "trained_model", "optimizer", "ema", "grad_scaler")
    torch.testing.assert_close(*({key: state[key] for key in kept if key in state} for state in (first, last)), rtol=0, atol=0)


def test_evaluations_change_nothing_in_the_training(cfg: Any, tmp_path: Path) -> None:
    _, losses = _train(cfg)
    cfg.TEST.EVAL_PERIOD, cfg.OUTPUT_DIR = 2, str(tmp_path / "evaluated")
    assert _train(cfg)[1] == losses


def test_the_average_is_the_model_of_a_checkpoint(cfg: Any) -> None:
    cfg.SOLVER.EMA.ENABLED = True
    trainer, _ = _train(cfg)
    state = read_checkpoint(trainer.checkpoints.final)
    torch.testing.assert_close(state["model"], dict(trainer.ema.model.state_dict()))
    torch.testing.assert_close(state["trained_model"], dict(trainer.model.state_dict()))
    assert not torch.equal(state["model"]["head.cls_score.weight"], state["trained_model"]["head.cls_score.weight"])


def test_mixed_precision_stays_near_full_precision(cfg: Any, tmp_path: Path) -> None:
    cfg.DATASETS.TEST = ()
    _, exact = _train(cfg)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, cfg.OUTPUT_DIR = True, "bfloat16", str(tmp_path / "bf16")
    _, mixed = _train(cfg)
    assert mixed[0]["total_loss"] == pytest.approx(exact[0]["total_loss"], rel=0.02)
    assert mixed[0]["total_loss"] != exact[0]["total_loss"]
    assert mixed[5]["total_loss"] == pytest.approx(exact[5]["total_loss"], rel=0.1)


class _Poison(TrainLoader):
    """From iteration 3 on, the first image of a batch holds a NaN."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def from_iteration(self, start: int):
        for i, batch in enumerate(itertools.islice(self._loader.from_iteration(start), 100)):
            if start + i >= 3:
                batch[0]["image"] = batch[0]["image"].float()
                batch[0]["image"][0, 0, 0] = float("nan")
            yield batch


class _Poisoned(Trainer):
    @classmethod
    def build_train_loader(cls, cfg: Any) -> TrainLoader:
        return _Poison(super().build_train_loader(cfg))


def test_a_nan_stops_with_its_images_and_a_checkpoint(cfg: Any) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = _Poisoned(cfg)
    with pytest.raises(NonFiniteLossError, match=r"iteration 3.*loss_\w+ = nan.* on the images .*\.png"):
        trainer.train()
    out = Path(cfg.OUTPUT_DIR)
    assert sorted(p.name for p in out.glob("*.pth")) == ["model_0000001.pth", "model_nan_iter0000003.pth"]
    saved = read_checkpoint(out / "model_nan_iter0000003.pth")
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"


class _Signal(HookBase):
    """Somebody asks the process to end during an iteration."""

    def __init__(self, signum: int) -> None:
        self._signum = signum

    def before_step(self) -> None:
        if self.trainer.iter == 1:
            os.kill(os.getpid(), self._signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_training_with_a_checkpoint(cfg: Any, tmp_path: Path, signum: int) -> None:
    cfg.DATASETS.TEST = ()
    handler = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stopped:
        _train(cfg, hooks=(_Signal(signum),))
    assert stopped.value.code == 128 + signum
    assert signal.getsignal(signum) is handler
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000001.pth"
    continued, _ = _train(cfg, resume=True)
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole, _ = _train(cfg)
    torch.testing.assert_close(_weights(continued), _weights(whole), rtol=0, atol=0)


class _SignalWhileEvaluating(Trainer):
    def evaluate(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate()


def test_a_signal_during_an_evaluation_ends_at_once(cfg: Any) -> None:
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 0
    with pytest.raises(SystemExit):
        _SignalWhileEvaluating(cfg).train()
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (Path(cfg.OUTPUT_DIR) / "inference" / "toy" / "coco_instances_results.json").exists()


def _iterations(cfg: Any) -> list[int]:
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


def test_metrics_of_lost_and_of_former_iterations_are_removed(cfg: Any) -> None:
    Path(cfg.OUTPUT_DIR).mkdir()
    path = Path(cfg.OUTPUT_DIR) / "metrics.json"
    path.write_text('{"iteration": 2}\n{"iteration": 3}\n{"iterat')
    cfg.SOLVER.MAX_ITER = 3
    _train(cfg)
    first = _iterations(cfg)
    assert first == sorted(set(first)) and first[0] == 2
    path.write_text(path.read_text() + '{"iteration": 4}\n{"iterat')
    cfg.SOLVER.MAX_ITER = 6
    _train(cfg, resume=True)
    assert 4 not in _iterations(cfg) and 2 in _iterations(cfg)


def test_results_are_written_with_all_that_they_depend_on(cfg: Any) -> None:
    trainer, _ = _train(cfg)
    saved = json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())
    assert saved["results"]["toy"]["bbox"].keys() >= {"AP", "AP50", "APs"}
    assert saved["weights"].endswith("model_final.pth") and saved["iteration"] == 6
    assert saved["config"]["SOLVER"]["MAX_ITER"] == 6


def test_missed_expectations_end_with_an_error(cfg: Any) -> None:
    cfg.SOLVER.MAX_ITER, cfg.MODEL.ATSS.TEST.SCORE_THRESH = 1, 0.0
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 99.0, 0.5], ["segm", "AP", 50.0, 100.0]]
    with pytest.raises(SystemExit, match=r"bbox AP is .*, expected 99\.0 \+- 0\.5; segm AP is None"):
        _train(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 50.0]]
    _train(cfg)


def test_a_test_set_without_annotations_gives_detections_only(cfg: Any, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    cfg.DATASETS.TEST = (register_toy_data(make_toy_data(folder, annotated=False), "toy_unknown"),)
    cfg.SOLVER.MAX_ITER = 1
    trainer, _ = _train(cfg)
    assert trainer.results == {"toy_unknown": {}}
    assert (Path(cfg.OUTPUT_DIR) / "inference" / "toy_unknown" / "coco_instances_results.json").exists()


def test_a_finished_run_is_only_evaluated_again(cfg: Any, capsys: pytest.CaptureFixture) -> None:
    _, first = _train(cfg)
    before = (Path(cfg.OUTPUT_DIR) / "last_checkpoint").stat().st_mtime_ns
    trainer, losses = _train(cfg, resume=True)
    assert losses == {} and trainer.start_iter == 6 and trainer.results["toy"]
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").stat().st_mtime_ns == before
    assert max(_iterations(cfg)) == 6
    cfg.SOLVER.MAX_ITER = 8
    assert sorted(_train(cfg, resume=True)[1]) == [6, 7]


def test_another_model_cannot_be_resumed(cfg: Any) -> None:
    _train(cfg)
    cfg.MODEL.ATSS.NUM_CLASSES = 5
    with pytest.raises(ValueError, match="does not belong to this config"):
        Trainer(cfg).resume_or_load(resume=True)


def test_mixed_precision_can_be_turned_on_in_a_resumed_run(cfg: Any) -> None:
    cfg.DATASETS.TEST = ()
    with pytest.raises(KeyboardInterrupt, match="crash"):
        _train(cfg, hooks=(_Crash(),))
    cfg.SOLVER.AMP.ENABLED = True
    continued, losses = _train(cfg, resume=True)
    assert sorted(losses) == [3, 4, 5]
    assert continued.training_step.grad_scaler.is_enabled()


def test_nothing_to_resume_from_starts_anew(cfg: Any) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
