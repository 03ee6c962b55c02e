"""Sums, extremes and ranks over groups of unequal size: the pairs of each object.

Values and groups are flat, (M, ...) and (M,); a group is named by its number in [0, num_groups). Groups without members are allowed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detkit.host import send

__all__ = ["best_in_groups", "best_of_each", "group_logsumexp", "group_max", "group_min", "group_sizes", "group_sum", "ranks_in_groups"]


def group_sum(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) sum of the values (M,) of each group; 0 for an empty one."""
    return values.new_zeros(num_groups).scatter_add(0, groups, values)


def group_sizes(groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) int64, how many members each group has; ``bincount`` would wait for the device, which has to say how many there are."""
    return groups.new_zeros(num_groups).index_add(0, groups, torch.ones_like(groups))


def group_min(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) smallest value of each group; inf for an empty one."""
    return values.new_full((num_groups,), torch.inf).scatter_reduce(0, groups, values, "amin")


def group_max(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) largest value of each group; -inf for an empty one."""
    return values.new_full((num_groups,), -torch.inf).scatter_reduce(0, groups, values, "amax")


def ranks_in_groups(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(M,) int64: the rank of each value within its group, 0 for the smallest; equal values in the order in which they stand."""
    order = _by_group_and_value(values, groups)
    counts = group_sizes(groups, num_groups)
    starts = counts.cumsum(0) - counts
    places = torch.arange(len(values), device=values.device)
    rank = torch.empty_like(order).scatter_(0, order, places)  # among all
    return rank.sub_(starts.index_select(0, groups))


def _by_group_and_value(values: Tensor, groups: Tensor) -> Tensor:
    """(M,) places of the values, in float32, by group, then from the smallest, then as they stand: one number sorts by all three, for the
    bits of floats sort as the floats do, those of negative ones the other way round."""
    bits = (values.float() + 0.0).view(torch.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return ((groups << 32) + bits).argsort(stable=True)


def best_in_groups(values: Tensor, groups: Tensor, sizes: np.ndarray, count: int) -> Tensor:
    """(N,) int64, ascending: places of the ``count`` smallest values of each group, or of all where it has fewer.

    Args:
        values, groups: see above.
        sizes: (num_groups,) members of each group, on the host: they decide about N, so that nothing waits for the device.
        count: of every group.
    """
    kept = np.minimum(sizes, count)
    total = int(kept.sum())
    starts = send(kept.cumsum() - kept, values.device)
    ranks = ranks_in_groups(values, groups, len(sizes))
    target = torch.where(ranks < count, starts.index_select(0, groups) + ranks, total)  # the last place is for all the others
    places = torch.arange(len(values), device=values.device)
    return target.new_zeros(total + 1).scatter_(0, target, places)[:-1].sort().values


def group_logsumexp(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) ``ln(sum(exp(values)))`` of each group; -inf for an empty one."""
    largest = group_max(values, groups, num_groups)
    shift = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    return group_sum((values - shift.index_select(0, groups)).exp(), groups, num_groups).log() + shift


def best_of_each(values: Tensor, groups: Tensor, among: Tensor | None = None) -> Tensor:
    """(M,) bool: whether a value is the largest of its group; of equal ones the first in the order in which they stand.

    Args:
        values, groups: see above.
        among: (M,) bool, the members that take part; None: all.
    """
    if among is not None:
        return best_of_each(values, torch.where(among, groups, -1)) & among
    order = _by_group_and_value(-values, groups)
    ordered = groups.index_select(0, order)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(is_first).scatter_(0, order, is_first)
