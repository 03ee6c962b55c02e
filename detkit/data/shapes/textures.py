"""Random surfaces: what backgrounds and objects of `shapes` are filled with. Nothing here knows the class of an object."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["add_clutter", "background", "random_color", "surface"]


def random_color(rng: np.random.Generator, *, far_from: np.ndarray | None = None, distance: float = 0.0) -> np.ndarray:
    """A color (3,) in [0, 255], at least ``distance`` (Euclidean) away from ``far_from`` as far as a few tries find one."""
    for _ in range(20):
        color = rng.uniform(0, 255, size=3)
        if far_from is None or np.linalg.norm(color - far_from) >= distance:
            break
    return color


def surface(rng: np.random.Generator, height: int, width: int, colors: np.ndarray, period: float) -> np.ndarray:
    """A random pattern between two colors.

    Args:
        height, width: size in pixels.
        colors: (2, 3) in [0, 255].
        period: typical length of the pattern's details in pixels.

    Returns:
        float32 (height, width, 3).
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    mix = np.clip(pattern(rng, height, width, max(period, 2.0)), 0, 1).astype(np.float32)[..., None]
    return (colors[0] * (1 - mix) + colors[1] * mix).astype(np.float32)


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A textured background, float32 (height, width, 3)."""
    gray, tint = rng.uniform(30, 225), rng.normal(0, 30, size=3)
    colors = np.clip(gray + tint + rng.normal(0, 28, size=(2, 3)), 0, 255)
    image = surface(rng, height, width, colors, rng.uniform(8, 80))
    return image + _smooth_noise(rng, height, width, rng.uniform(2, 30))[..., None] * rng.uniform(0, 30, size=3).astype(np.float32)


def add_clutter(rng: np.random.Generator, image: np.ndarray, count: int) -> None:
    """Draws lines, curves and shapeless spots, which belong to no class, onto a float32 image in place."""
    height, width = image.shape[:2]
    for _ in range(count):
        color = random_color(rng).tolist()
        if rng.random() < 0.6:
            points = rng.uniform(0, 1, size=(int(rng.integers(2, 5)), 2)) * [width, height]
            thickness = int(rng.integers(1, 4))
            cv2.polylines(image, [_fixed_point(_smooth_path(points))], False, color, thickness, cv2.LINE_AA, shift=4)
        else:
            cv2.fillPoly(image, [_fixed_point(_spot(rng, height, width))], color, cv2.LINE_AA, shift=4)


def _spot(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wobbly closed curve (64, 2)."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [rng.uniform(0.1, 0.3) * np.sin(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    radius = rng.uniform(4, 30) * (1 + np.sum(waves, axis=0))
    return rng.uniform(0, 1, size=2) * [width, height] + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _smooth_path(points: np.ndarray) -> np.ndarray:
    """The Bezier curve with the given control points, as 24 points."""
    t = np.linspace(0, 1, 24)[:, None, None]
    curve = np.repeat(points[None], 24, axis=0)
    while curve.shape[1] > 1:
        curve = curve[:, :-1] * (1 - t) + curve[:, 1:] * t
    return curve[:, 0]


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Coordinates in OpenCV's fixed-point form with 4 fractional bits."""
    return np.round(points * 16).astype(np.int32)


def _coordinates(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance in pixels of every pixel along a random direction, (height, width)."""
    angle = rng.uniform(0, np.pi)
    ys, xs = np.mgrid[:height, :width]
    return xs * np.cos(angle) + ys * np.sin(angle)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Noise around 0 with unit-sized swings and details of about ``period`` pixels, float32 (height, width)."""
    rows, columns = int(height / period) + 3, int(width / period) + 3
    coarse = rng.uniform(-1, 1, size=(rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _flat(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    return np.zeros((height, width))


def _gradient(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    ramp = _coordinates(rng, height, width)
    return (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1.0)


def _stripes(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    waves = np.sin(_coordinates(rng, height, width) * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi))
    return 0.5 + waves * rng.uniform(0.5, 3.0)


def _checks(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, size=2)
    ys, xs = np.mgrid[:height, :width] * (2 * np.pi / period)
    return 0.5 + 2 * np.sin(xs * np.cos(angle) + ys * np.sin(angle) + phase[0]) * np.sin(ys * np.cos(angle) - xs * np.sin(angle) + phase[1])


def _blobs(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    return 0.5 + _smooth_noise(rng, height, width, period) * rng.uniform(0.5, 4.0)


def _grain(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    return rng.uniform(0, 1, size=(height, width))


_PATTERNS = (_flat, _gradient, _stripes, _checks, _blobs, _grain)
