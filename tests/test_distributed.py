from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from detkit.distributed import get_rank, get_world_size, reduce_mean
from detkit.engine.launch import launch


def test_one_process_keeps_its_value() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = reduce_mean(value)
    torch.testing.assert_close(mean, torch.tensor([1.0, 2.0]))
    assert not mean.requires_grad
    assert reduce_mean(torch.tensor(3)).dtype == torch.float32
    assert (get_rank(), get_world_size()) == (0, 1)


def _mean_of_ranks(folder: str) -> None:
    value = torch.tensor([dist.get_rank(), 10])
    torch.save((reduce_mean(value), value), Path(folder) / f"{get_rank()}.pt")


def test_two_processes_get_the_mean_and_keep_their_input(tmp_path: Path) -> None:
    launch(_mean_of_ranks, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(str(tmp_path),))
    for rank in range(2):
        mean, value = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(mean, torch.tensor([0.5, 10.0]))
        torch.testing.assert_close(value, torch.tensor([rank, 10]))
