"""How many operations a training step of any side would launch on a GPU: the second step counts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.toys.launches import Launches

__all__ = ["SIZE", "count"]

#: images are small, for numbers of operations do not depend on it
SIZE = (256, 320)


def count(loss: Callable[[], Tensor]) -> dict[str, int]:
    """Operations forward and backward, and those that the host would wait for, of a function that gives the sum of the losses."""
    loss().backward()
    with Launches() as forward:
        total = loss()
    with Launches() as backward:
        total.backward()
    waits = sum(forward.waits.values()) + sum(backward.waits.values())
    assert torch.isfinite(total)
    return {"forward": forward.total, "backward": backward.total, "launches": forward.total + backward.total, "waits": waits}
