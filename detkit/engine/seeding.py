"""Randomness as a function of what is being computed, not of what was computed before.

Every training step and every training image draws from generators that are seeded anew from the run's seed and the step's or image's
number. So a resumed run continues exactly as the uninterrupted one, whatever ran in between, and the number of data workers or
processes changes nothing of what an image looks like.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["fresh_seed", "seed_everything", "seeded_on_host"]


def fresh_seed() -> int:
    """A seed in [0, 2**31) from the system's entropy."""
    return int(np.random.SeedSequence().generate_state(1)[0] >> 1)


def seed_everything(*entropy: int) -> None:
    """Seeds Python, NumPy and torch (CPU and all GPUs).

    Args:
        entropy: non-negative numbers; every different sequence gives an independent stream.
    """
    first, second, third = _seeds(*entropy)
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


@contextlib.contextmanager
def seeded_on_host(*entropy: int) -> Iterator[None]:
    """Seeds Python, NumPy and torch on the CPU, and gives them their former states back at the end."""
    former = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = _seeds(*entropy)
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(former[0])
        np.random.set_state(former[1])
        torch.set_rng_state(former[2])


def _seeds(*entropy: int) -> tuple[int, int, int]:
    first, second, third = np.random.SeedSequence(entropy).generate_state(3)
    return int(first), int(second), int(third)
