"""Outlines of the classes of `shapes` in their own coordinates: about one unit large, x to the right, y down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .person import draw_person_pose

__all__ = ["Outline", "OUTLINES"]


@dataclass(frozen=True)
class Outline:
    """A drawable shape.

    Attributes:
        parts: the shape is the union of its parts; a part is a list of closed rings (N, 2), filled by the even-odd rule, so that a
            second ring inside the first is a hole.
        marks: closed rings (N, 2) on the shape that are drawn in its second color (eyes, mouth).
        keypoints: (K, 2) or None.
    """

    parts: list[list[np.ndarray]]
    marks: list[np.ndarray] = field(default_factory=list)
    keypoints: np.ndarray | None = None

    def transformed(self, matrix: np.ndarray, shift: np.ndarray) -> Outline:
        """The outline with every coordinate ``x`` replaced by ``matrix @ x + shift``."""

        def move(points: np.ndarray) -> np.ndarray:
            return points @ matrix.T + shift

        return Outline(
            parts=[[move(ring) for ring in part] for part in self.parts],
            marks=[move(ring) for ring in self.marks],
            keypoints=None if self.keypoints is None else move(self.keypoints),
        )

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest (x, y) of the shape."""
        points = np.concatenate([ring for part in self.parts for ring in part])
        return points.min(axis=0), points.max(axis=0)


def _polar(radii: np.ndarray | float, count: int) -> np.ndarray:
    """A closed ring of ``count`` points around the origin, the first one at the top."""
    angles = np.arange(count) * (2 * np.pi / count) - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _ellipse(rng: np.random.Generator) -> Outline:
    return Outline([[_polar(0.5, 72) * [rng.uniform(0.6, 1.0), 1.0]]])


def _rectangle(rng: np.random.Generator) -> Outline:
    half_width = rng.uniform(0.3, 0.5)
    return Outline([[np.array([[-half_width, -0.5], [half_width, -0.5], [half_width, 0.5], [-half_width, 0.5]])]])


def _triangle(rng: np.random.Generator) -> Outline:
    tip = rng.uniform(-0.25, 0.25)
    return Outline([[np.array([[tip, -0.5], [0.5, 0.45], [-0.5, 0.45]])]])


def _star(rng: np.random.Generator) -> Outline:
    points = int(rng.integers(5, 7))
    return Outline([[_polar(np.tile([0.5, 0.5 * rng.uniform(0.38, 0.52)], points), 2 * points)]])


def _ring(rng: np.random.Generator) -> Outline:
    squeeze = [rng.uniform(0.7, 1.0), 1.0]
    return Outline([[_polar(0.5, 72) * squeeze, _polar(0.5 * rng.uniform(0.5, 0.68), 72) * squeeze]])


def _cross(rng: np.random.Generator) -> Outline:
    a, b = rng.uniform(0.12, 0.2, size=2)
    corners = [(-a, -0.5), (a, -0.5), (a, -b), (0.5, -b), (0.5, b), (a, b), (a, 0.5), (-a, 0.5), (-a, b), (-0.5, b), (-0.5, -b), (-a, -b)]
    return Outline([[np.array(corners)]])


def _arrow(rng: np.random.Generator) -> Outline:
    shaft, neck, wing = rng.uniform(0.1, 0.17), rng.uniform(-0.1, 0.05), rng.uniform(0.34, 0.48)
    corners = [(0, -0.5), (wing, neck), (shaft, neck), (shaft, 0.5), (-shaft, 0.5), (-shaft, neck), (-wing, neck)]
    return Outline([[np.array(corners, dtype=float)]])


def _person(rng: np.random.Generator) -> Outline:
    parts, marks, keypoints = draw_person_pose(rng)
    return Outline([[ring] for ring in parts], marks, keypoints)


#: how to draw one example of each class, by class name; the order is that of the category ids
OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "person": _person,
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "arrow": _arrow,
}
