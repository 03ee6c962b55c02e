"""An articulated figure that faces the viewer, with the 17 keypoints of COCO persons.

The figure's left side is at the viewer's right, as in photographs; it is rotated but never mirrored, so left and right can be told.
"""

from __future__ import annotations

import numpy as np

__all__ = ["draw_person_pose"]

_SHOULDER, _HIP = 0.17, 0.11  # half widths of the trunk
_UPPER_ARM, _FOREARM, _THIGH, _SHANK = 0.2, 0.19, 0.25, 0.25
_NECK_Y, _HIP_Y, _HEAD_Y, _HEAD_RADIUS = -0.22, 0.12, -0.38, 0.12
_ARM_WIDTH, _LEG_WIDTH = 0.05, 0.062  # half widths


def draw_person_pose(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """One figure in a random pose.

    Returns:
        rings whose union is the figure, rings of the face, and the keypoints (17, 2) in COCO's order: nose, then left and right of
        eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
    """
    sides = np.array([1.0, -1.0])  # left, right
    shoulders = np.stack([sides * _SHOULDER, np.full(2, _NECK_Y)], axis=1)
    hips = np.stack([sides * _HIP, np.full(2, _HIP_Y)], axis=1)
    # angles from hanging down, positive away from the body
    upper_arms, forearms = rng.uniform(0.15, 2.6, size=2), rng.uniform(-0.3, 1.3, size=2)
    thighs, shanks = rng.uniform(0.02, 0.9, size=2), rng.uniform(-0.8, 0.1, size=2)
    elbows = shoulders + _limb(upper_arms, _UPPER_ARM, sides)
    wrists = elbows + _limb(upper_arms + forearms, _FOREARM, sides)
    knees = hips + _limb(thighs, _THIGH, sides)
    ankles = knees + _limb(thighs + shanks, _SHANK, sides)

    turn = rng.uniform(-0.03, 0.03)  # of the face, sideways
    nose = np.array([[turn, _HEAD_Y + 0.02]])
    eyes = np.stack([sides * 0.045 + turn, np.full(2, _HEAD_Y - 0.025)], axis=1)
    ears = np.stack([sides * (_HEAD_RADIUS - 0.01), np.full(2, _HEAD_Y)], axis=1)
    keypoints = np.concatenate([nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles])

    trunk = np.array([[0, _NECK_Y - 0.05], *shoulders[:1], *hips[:1], *hips[1:], *shoulders[1:]])
    rings = [
        _disc(np.array([0.0, _HEAD_Y]), _HEAD_RADIUS),
        trunk,
        _capsule(shoulders[0], shoulders[1], _ARM_WIDTH),
        _capsule(hips[0], hips[1], _LEG_WIDTH),
    ]
    rings.append(_capsule(np.array([0.0, _HEAD_Y]), np.array([0.0, _NECK_Y]), _ARM_WIDTH))
    for side in range(2):
        rings += [_capsule(a[side], b[side], _ARM_WIDTH) for a, b in ((shoulders, elbows), (elbows, wrists))]
        rings += [_capsule(a[side], b[side], _LEG_WIDTH) for a, b in ((hips, knees), (knees, ankles))]
    face = [_disc(eyes[0], 0.018), _disc(eyes[1], 0.018), _disc(nose[0], 0.014)]
    face.append(_capsule(np.array([turn - 0.035, _HEAD_Y + 0.065]), np.array([turn + 0.035, _HEAD_Y + 0.065]), 0.01))
    return rings, face, keypoints


def _limb(angles: np.ndarray, length: float, sides: np.ndarray) -> np.ndarray:
    """Vectors (2, 2) of the left and right limb; mirrored for the right one."""
    return np.stack([sides * np.sin(angles), np.cos(angles)], axis=1) * length


def _disc(center: np.ndarray, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """All points within ``radius`` of the segment."""
    heading = np.arctan2(end[1] - start[1], end[0] - start[0])
    arc = np.linspace(-np.pi / 2, np.pi / 2, 12) + heading
    front = end + radius * np.stack([np.cos(arc), np.sin(arc)], axis=1)
    back = start - radius * np.stack([np.cos(arc), np.sin(arc)], axis=1)
    return np.concatenate([front, back])
