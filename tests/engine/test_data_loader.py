from __future__ import annotations

import itertools
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from torch.utils.data import DataLoader

from detkit.config import get_cfg
from detkit.data import DataError, register_coco_folder
from detkit.engine import data_loader
from detkit.engine.data_loader import BatchSchedule, SeededDataset, TrainLoader
from detkit.engine.data_workers import watched_batches
from detkit.engine.evaluate import build_test_loader, keeping_loaders
from tests.toys.datasets import CocoFolder


def _stream(size: int = 10):
    rng = np.random.default_rng(3)
    while True:
        yield from rng.permutation(size).tolist()


def _schedule(**changed) -> BatchSchedule:
    return BatchSchedule(**({"stream": _stream, "batch_size": 4} | changed))


def _take(schedule: BatchSchedule, iterations: int, start: int = 0) -> list[list[tuple[int, int]]]:
    """Batches of whole iterations: the parts of one process put together."""
    parts = list(itertools.islice(schedule.from_iteration(start), iterations * schedule.parts))
    return [sum(parts[i : i + schedule.parts], []) for i in range(0, len(parts), schedule.parts)]


@pytest.mark.parametrize("groups", [None, [0, 1] * 5])
@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_parts_share_the_same_batches(world_size: int, parts: int, groups: list[int] | None) -> None:
    whole = _take(_schedule(groups=groups), 7)
    shares = [_take(_schedule(world_size=world_size, rank=rank, parts=parts, groups=groups), 7) for rank in range(world_size)]
    for batch, *pieces in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(sum(pieces, []))
        assert all(len(piece) == 4 // world_size for piece in pieces)


@pytest.mark.parametrize("groups", [None, [0, 1] * 5])
def test_goes_on_anywhere(groups: list[int] | None) -> None:
    schedule = _schedule(groups=groups, parts=2)
    assert _take(schedule, 4, start=5) == _take(schedule, 9)[5:]


def test_batches_of_groups_hold_one_group_and_lose_no_image() -> None:
    groups = [0, 1, 1, 1, 0, 1, 1, 0, 1, 1]
    batches = _take(_schedule(groups=groups), 50)
    assert all(len({groups[index] for _, index in batch}) == 1 for batch in batches)
    seen = sorted(position for batch in batches for position, _ in batch)
    assert len(set(seen)) == 200 and seen[-1] < 200 + 8


@pytest.mark.parametrize("changed", [{"batch_size": 5, "world_size": 2}, {"batch_size": 4, "parts": 3}, {"parts": 0}, {"batch_size": 0}])
def test_a_batch_that_cannot_be_divided_is_refused(changed: dict) -> None:
    with pytest.raises(ValueError, match="make it a multiple of"):
        _schedule(**changed)


def _noisy(record: dict) -> dict:
    return record | {"noise": (random.random(), np.random.rand(), torch.rand(()).item())}


def _skips_odd(record: dict) -> dict | None:
    return record if record["id"] % 2 == 0 else None


def _skips_all(record: dict) -> None:
    return None


RECORDS = [{"id": i} for i in range(10)]


def test_randomness_depends_on_position_not_on_workers() -> None:
    def batches(num_workers: int, start: int = 0) -> list:
        loader = TrainLoader(SeededDataset(RECORDS, _noisy, seed=1), _schedule(), num_workers=num_workers)
        return list(itertools.islice(loader.from_iteration(start), 6 - start))

    torch.manual_seed(0)
    alone = batches(0)
    torch.manual_seed(5)
    assert batches(2) == alone
    assert batches(0, start=4) == alone[4:]
    assert len({image["noise"] for batch in alone for image in batch}) == 24


def test_preparing_an_image_leaves_the_generators_alone() -> None:
    dataset = SeededDataset(RECORDS, _noisy, seed=1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    dataset[0, 3]
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    torch.testing.assert_close(torch.get_rng_state(), before[2])


def test_a_skipped_image_is_replaced_in_the_same_way_each_time() -> None:
    dataset = SeededDataset(RECORDS, _skips_odd, seed=1)
    replaced = [dataset[position, 3]["id"] for position in range(20)]
    assert all(i % 2 == 0 for i in replaced) and len(set(replaced)) > 1
    assert replaced == [dataset[position, 3]["id"] for position in range(20)]
    with pytest.raises(DataError, match="could not be used"):
        SeededDataset(RECORDS, _skips_all, seed=1)[0, 0]


# data workers ---------------------------------------------------------------------------------------------------------------------------


def test_data_workers_keep_the_memory_of_an_image_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_loader, "keep_freed_memory", (tmp_path / "kept").touch)
    next(iter(TrainLoader(SeededDataset(RECORDS, _noisy, seed=1), _schedule(), num_workers=1)))
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("device", "gpu", "key", "pinned"),
    [("cuda", True, True, True), ("cpu", True, True, False), ("cuda", True, False, False), ("cuda", False, True, False)],
)
def test_memory_is_pinned_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch, device: str, gpu: bool, key: bool, pinned: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = CfgNode({"MODEL": {"DEVICE": device}, "DATALOADER": {"PIN_MEMORY": key}})
    assert data_loader.pins_memory(cfg) is pinned


def _pids(loader: DataLoader) -> set[int]:
    return {image["pid"] for batch in watched_batches(loader, patience=30) for image in batch}


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_test_set_stay_where_asked(coco_folder: CocoFolder, monkeypatch: pytest.MonkeyPatch, persistent: bool) -> None:
    register_coco_folder("kept_val", coco_folder.json_file, coco_folder.image_root)
    monkeypatch.setattr(sys.modules[build_test_loader.__module__], "build_test_mapper", lambda _: lambda record: {"pid": os.getpid()})
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.PERSISTENT_WORKERS = 1, persistent
    build = keeping_loaders(build_test_loader)
    first, second = (_pids(build(cfg, "kept_val")) for _ in range(2))
    assert (first == second) is persistent
    if persistent:  # one that has died meanwhile is replaced
        os.kill(*second, signal.SIGKILL)
        assert not _pids(build(cfg, "kept_val")) & second
