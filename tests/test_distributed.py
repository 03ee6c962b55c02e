from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from detkit.dense import criteria
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


NORMALIZERS = ("PositivesNormalizer", "AllPriorsNormalizer", "MovingClassNormalizer", "MovingAverageNormalizer")


def _positives(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    positive = torch.arange(24 + 8 * rank).view(2, -1) % (4 - rank) == 0
    return positive, positive * 0.25


def _denominators(folder: str) -> None:
    rounds, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: (rounds.append(len(tensor)), all_reduce(tensor, *args, **kwargs))[1]
    found = [getattr(criteria, name)()(*_positives(get_rank())) for name in NORMALIZERS]
    torch.save((rounds, [tuple(x) for x in found]), Path(folder) / f"{get_rank()}.pt")


def test_the_denominators_of_a_step_are_averaged_in_one_round(tmp_path: Path) -> None:
    launch(_denominators, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(str(tmp_path),))
    positive, weights = (sum(float(_positives(rank)[i].sum()) for rank in range(2)) / 2 for i in range(2))
    average = 0.9 * 100 + 0.1 * positive, 0.9 * 300 + 0.1 * positive
    expected = [(positive, weights, positive), (28.0, weights, positive), (average[0], weights, positive), (average[1],) * 3]
    for rank in range(2):
        rounds, found = torch.load(tmp_path / f"{rank}.pt")
        assert rounds == [2, 3, 2, 2]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
