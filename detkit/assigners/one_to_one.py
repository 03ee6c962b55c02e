"""One prior for each object, of listed pairs of both: what assigners without a need for non-maximum suppression share.

Pairs that must not be matched have a value of ``-inf``. Shapes as in :mod:`detkit.assigners.soft`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.host import values_are_at_hand

from .segments import best_in_groups
from .soft import Pairs

__all__ = ["best_pairs", "greedy_matching"]


def best_pairs(values: Tensor, pairs: Pairs, count: int) -> tuple[Tensor, Pairs]:
    """The ``count`` pairs of each object with the highest values, or all where it has fewer.

    With as many objects in an image as ``count``, none needs another pair in a matching that prefers higher values: the others have at most
    ``count - 1`` of its priors. How many pairs remain follows from the objects alone.

    Args:
        values: (M,) of the pairs; NaN counts as the highest, so that matching sees and refuses it.
        pairs: with their ``sizes``.
        count: pairs of an object.

    Returns:
        (N,) int64, ascending: places in the list; and the pairs there, with their sizes.
    """
    assert pairs.sizes is not None
    best = best_in_groups((-values).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), pairs.gt_index, pairs.sizes, count)
    prior_index, gt_index = (index.index_select(0, best) for index in (pairs.prior_index, pairs.gt_index))
    return best, Pairs(prior_index, gt_index, pairs.sizes.clip(max=count))


def greedy_matching(values: Tensor, pairs: Pairs, num_gts: int, num_priors: int, rounds: int) -> Tensor:
    """The pair with the highest value is matched first, then the best one of what is left of objects and priors, and so on; of equal values
    the first in the list.

    Done in rounds, in each of which all pairs are matched that are the best ones of both their object and their prior. A round matches
    one pair of every image at least, so that as many rounds as an image has objects always suffice. Nothing waits for the device; where
    values are at hand, rounds end when nothing is left, mostly after a handful.

    Args:
        values: (M,) of the pairs, higher is better.
        pairs: M of them.
        num_gts, num_priors: objects and priors of the whole batch.
        rounds: as many as an image has objects.

    Returns:
        (M,) bool: which pairs are matched. No object and no prior is in two of them. An object is in none if better pairs have taken all of
        its priors, though a matching may exist in which every object has one.
    """
    out = len(values)  # the rank of a pair that can no longer be matched
    order = values.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(out, device=values.device))
    rank = torch.where(values == -torch.inf, out, rank)
    matched = torch.zeros_like(values, dtype=torch.bool)
    place = torch.cat([pairs.gt_index, pairs.prior_index + num_gts])  # objects, and behind them priors
    taken = rank.new_zeros(num_gts + num_priors)
    for _ in range(rounds):
        if values_are_at_hand(rank) and bool((rank == out).all()):
            break
        lowest = rank.new_full(taken.shape, out).scatter_reduce_(0, place, rank.repeat(2), "amin")
        won = (lowest.index_select(0, place).view(2, -1) == rank).all(0) & (rank < out)
        matched |= won
        taken.scatter_reduce_(0, place, won.long().repeat(2), "amax")
        rank = torch.where(taken.index_select(0, place).view(2, -1).amax(0) > 0, out, rank)
    return matched
