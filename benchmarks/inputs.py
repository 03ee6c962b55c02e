"""What all sides of a comparison get: ground truth, and outputs of heads and of proposals, from numpy alone and always the same."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["LEVELS", "NUM_CLASSES", "SCORES", "SIZE", "STRIDES", "dense_maps", "level_sizes", "objects", "proposals"]

SIZE = (800, 1344)
STRIDES = (8, 16, 32, 64, 128)
NUM_CLASSES = 80
#: mean and deviation of the logits: of a detector that is new, with 2 of 100 scores above 0.05, and of one that is trained
SCORES = {"initial": (-4.6, 0.8), "trained": (-7.0, 1.3)}


def level_sizes(size: tuple[int, int] = SIZE) -> list[tuple[int, int]]:
    """Rows and columns of every level of a pyramid of an image of this height and width."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]


LEVELS = level_sizes()


def _random(*seed: object) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(repr(seed).encode()))


def _boxes(random: np.random.RandomState, count: int, size: tuple[int, int]) -> Tensor:
    """xyxy boxes (N, 4) inside an image; sides are log-uniform from 8 pixels to three quarters of its height."""
    sides = np.exp(random.uniform(np.log(8), np.log(0.75 * size[0]), (count, 2)))
    corners = random.uniform(0, 1, (count, 2)) * (np.array(size[::-1]) - sides)
    return torch.from_numpy(np.concatenate([corners, corners + sides], axis=1).astype(np.float32))


def objects(count: int, image: int = 0, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) and classes (G,) int64 of one image."""
    random = _random("objects", count, image)
    return _boxes(random, count, size), torch.from_numpy(random.randint(0, NUM_CLASSES, count).astype(np.int64))


def dense_maps(
    kind: str, *, scores: str = "initial", batch: int = 2, size: tuple[int, int] = SIZE
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Logits (B, 80, H, W), boxes (B, 4, H, W) and quality logits (B, 1, H, W) of every level.

    Args:
        kind: what the boxes are: ``"distances"`` to the sides in strides, positive, or ``"deltas"`` of anchors, standard normal.
        scores: a key of :data:`SCORES`.
    """
    random, (mean, deviation) = _random("maps", kind, scores, batch), SCORES[scores]
    logits, boxes, quality = [], [], []
    for height, width in level_sizes(size):
        logits.append(random.standard_normal((batch, NUM_CLASSES, height, width)) * deviation + mean)
        raw = random.standard_normal((batch, 4, height, width))
        boxes.append(4 * np.exp(raw / 2) if kind == "distances" else raw)
        quality.append(random.standard_normal((batch, 1, height, width)))
    first, second, third = ([torch.from_numpy(x.astype(np.float32)) for x in maps] for maps in (logits, boxes, quality))
    return first, second, third


def proposals(count: int, *, stages: int = 6, batch: int = 2, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Logits (S, B, N, 80) and boxes (S, B, N, 4), xyxy in pixels, of the stages of Sparse R-CNN."""
    random = _random("proposals", count, stages, batch)
    logits = torch.from_numpy((random.standard_normal((stages, batch, count, NUM_CLASSES)) * 1.5 - 3).astype(np.float32))
    return logits, _boxes(random, stages * batch * count, size).view(stages, batch, count, 4)
