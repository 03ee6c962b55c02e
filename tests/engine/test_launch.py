from __future__ import annotations

import pytest
import torch

from detkit.engine import read_config, resolve_config, run
from detkit.engine.launch import Worker, check_processes, joined_worker, launch

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_torchrun_is_recognized_by_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined_worker() is None
    for name, value in zip(VARIABLES, ("3", "8", "1", "2", "host", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert joined_worker() == Worker(rank=3, local_rank=1, world_size=8, local_world_size=2)


def test_a_launcher_with_one_process_per_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "host"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert joined_worker() == Worker(rank=1, local_rank=0, world_size=2, local_world_size=1)


def test_one_process_runs_here() -> None:
    assert launch(sorted, 1, device="cpu", args=([2, 1],)) == [1, 2]


@pytest.mark.parametrize("numbers", [{"num_processes": 0}, {"num_processes": 1, "num_machines": 2, "machine_rank": 2}])
def test_impossible_numbers_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="--machine-rank"):
        launch(sorted, **numbers, device="cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"--num-gpus 2: this machine has 1 CUDA device.*MODEL.DEVICE cpu"):
        launch(sorted, 2, device="cuda")
    check_processes(1, device="cuda")


def test_a_resolved_config_leaves_nothing_open() -> None:
    from detectron2.engine import default_argument_parser

    args = default_argument_parser().parse_args(["SOLVER.IMS_PER_BATCH", "8", "SOLVER.REFERENCE_BATCH_SIZE", "16", "SOLVER.MAX_ITER", "7"])
    cfg = read_config(args)
    cfg.DATALOADER.NUM_WORKERS = 10_000
    resolved = resolve_config(cfg, given=args.opts[0::2])
    assert resolved.SEED >= 0 > cfg.SEED
    assert resolved.DATALOADER.NUM_WORKERS < 10_000
    assert resolved.MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (resolved.SOLVER.MAX_ITER, resolved.SOLVER.BASE_LR) == (7, cfg.SOLVER.BASE_LR / 2)
    assert resolve_config(resolved) == resolved
    with pytest.raises(AttributeError):
        resolved.SEED = 3


def test_the_help_promises_only_what_there_is(capsys: pytest.CaptureFixture) -> None:
    """Detectron2's help speaks of LazyConfigs, which are refused here."""
    with pytest.raises(SystemExit):
        run(["--help"])
    said = capsys.readouterr().out
    assert "KEY VALUE" in said and "azy" not in said and "pyconfig" not in said.lower()
