"""Many assignment problems at once: one transfer to the host, all of them in parallel there, one transfer back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from detkit.distributed import usable_processors
from detkit.host import send

from .soft import Pairs

__all__ = ["NonFiniteCostError", "match", "match_pairs"]

#: Threads that match, at most; a batch is some hundred problems of about a millisecond each.
_MAX_THREADS = 16


class NonFiniteCostError(FloatingPointError):
    """Costs of a matching are NaN or infinite, because the network's outputs are.

    Args:
        problems: which of the batched problems.
        where: human-readable description of them; default: their numbers.
    """

    def __init__(self, problems: Sequence[int], where: str = "") -> None:
        self.problems = tuple(problems)
        self.is_named = bool(where)
        where = where or f"in the problems {list(self.problems)} of the batch"
        super().__init__(
            f"The costs of matching predictions with objects are not finite {where}: the network predicts NaN or infinite classes or "
            "boxes. Lower SOLVER.BASE_LR, lengthen the warm-up, clip gradients (SOLVER.CLIP_GRADIENTS), or train in bfloat16 or without "
            "mixed precision."
        )


def match(costs: Tensor, valid: Tensor) -> Tensor:
    """One-to-one matching of least total cost: what SciPy's ``linear_sum_assignment`` gives for every problem by itself.

    SciPy works without Python's lock, so threads share the problems. The device is waited for once.

    Args:
        costs: (M, P, G) of M problems, P predictions and G objects.
        valid: (M, G) bool, False for objects that are padding.

    Returns:
        (M, P) int64 on the device of ``costs``: the object of each prediction, -1 for none. With more objects than predictions, every
        prediction has an object and the objects that are most expensive to match stay without.

    Raises:
        NonFiniteCostError: a cost of a valid object is NaN or infinite.
    """
    return match_in_graph(costs, valid) if torch.compiler.is_compiling() else _match(costs, valid)


@torch.library.custom_op("detkit::match", mutates_args=())
def match_in_graph(costs: Tensor, valid: Tensor) -> Tensor:
    """:func:`match` as one operator of a compiled program, whose compiler does not look into it."""
    return _match(costs, valid).clone()


@match_in_graph.register_fake
def _(costs: Tensor, valid: Tensor) -> Tensor:
    return costs.new_empty(costs.shape[:2], dtype=torch.int64)


def _match(costs: Tensor, valid: Tensor) -> Tensor:
    problems, predictions, objects = costs.shape
    gt_index = np.full((problems, predictions), -1)
    if costs.numel():
        packed = torch.cat([costs, valid[:, None].to(costs.dtype)], dim=1).cpu().numpy()  # one transfer for costs and mask
        solved = list(_threads().map(partial(_solve, packed, gt_index), range(problems)))
        if not all(solved):
            raise NonFiniteCostError([problem for problem, finite in enumerate(solved) if not finite])
    return send(gt_index, costs.device)


def _solve(packed: np.ndarray, gt_index: np.ndarray, problem: int) -> bool:
    """Fills a row of ``gt_index``; False if its costs are not finite."""
    valid = packed[problem, -1].nonzero()[0]
    costs = packed[problem, :-1][:, valid]  # (P, objects of this problem)
    if not np.isfinite(costs).all():
        return False
    rows, columns = linear_sum_assignment(costs)
    gt_index[problem, rows] = valid[columns]
    return True


def match_pairs(quality: Tensor, pairs: Pairs, num_images: int) -> Tensor:
    """One-to-one matching of as many objects as possible, and of those of highest total quality, where only listed pairs may be matched.

    The device is waited for once, for the qualities and priors of the pairs.

    Args:
        quality: (M,) in [0, 1]; -inf for pairs that must not be matched.
        pairs: M of them, with their ``sizes``.
        num_images: B.

    Returns:
        (M,) bool on the device of ``quality``: which pairs are matched. No object and no prior is in two of them.

    Raises:
        NonFiniteCostError: a quality is NaN.
    """
    assert pairs.sizes is not None
    packed = torch.stack([quality.double(), pairs.prior_index.double()]).cpu().numpy()  # one transfer for both
    objects = np.repeat(np.arange(len(pairs.sizes)), pairs.sizes)
    ends = pairs.sizes.reshape(num_images, -1).sum(1).cumsum()
    matched = np.zeros(len(objects), bool)
    problems = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    solved = list(_threads().map(partial(_solve_pairs, packed, objects, matched), problems))
    if not all(solved):
        raise NonFiniteCostError([problem for problem, finite in enumerate(solved) if not finite])
    return send(matched, quality.device)


def _solve_pairs(packed: np.ndarray, objects: np.ndarray, matched: np.ndarray, pairs: slice) -> bool:
    """Fills the part of ``matched`` that belongs to an image; False if its qualities are NaN.

    Every object may also go to a place of its own that costs more than all others together can save, so that every object has a place and
    as few as possible are there.
    """
    quality, priors = packed[:, pairs]
    if np.isnan(quality).any():
        return False
    allowed = np.flatnonzero(quality > -np.inf)
    if not len(allowed):
        return True
    named, row = np.unique(objects[pairs][allowed], return_inverse=True)
    places, column = np.unique(priors[allowed], return_inverse=True)
    count, alone = len(named), np.arange(len(named))
    costs = np.concatenate([2 - quality[allowed], np.full(count, count + 3.0)])
    table = csr_array((costs, (np.append(row, alone), np.append(column, len(places) + alone))), shape=(count, len(places) + count))
    column_of = min_weight_full_bipartite_matching(table)[1]
    matched[pairs.start + allowed[column_of[row] == column]] = True
    return True


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(usable_processors(), _MAX_THREADS), thread_name_prefix="matching")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork
