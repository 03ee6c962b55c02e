"""Names, mirror pairs and skeletons of keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)

__all__ = ["COCO_PERSON_KEYPOINTS", "COCO_PERSON_SKELETON", "connection_rules", "flip_map"]

COCO_PERSON_KEYPOINTS: tuple[str, ...] = tuple(COCO_PERSON_KEYPOINT_NAMES)

#: pairs of 1-based indices, as in COCO's json
COCO_PERSON_SKELETON: list[list[int]] = [
    [COCO_PERSON_KEYPOINTS.index(a) + 1, COCO_PERSON_KEYPOINTS.index(b) + 1] for a, b, _ in KEYPOINT_CONNECTION_RULES
]


def flip_map(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of keypoints that change places when the image is mirrored.

    COCO's own list for COCO's names; else every pair of names that differ by ``left`` and ``right``.
    """
    if tuple(names) == COCO_PERSON_KEYPOINTS:
        return list(COCO_PERSON_KEYPOINT_FLIP_MAP)
    known = {name.lower(): name for name in names}
    pairs = ((name, known.get(name.lower().replace("left", "right"))) for name in names if "left" in name.lower())
    return [(left, right) for left, right in pairs if right is not None]


def connection_rules(names: Sequence[str], skeleton: Sequence[Sequence[int]]) -> list[tuple[str, str, tuple[int, int, int]]]:
    """Detectron2's ``keypoint_connection_rules`` from a COCO skeleton (pairs of 1-based indices): what to join, in which color."""
    if tuple(names) == COCO_PERSON_KEYPOINTS:
        return list(KEYPOINT_CONNECTION_RULES)
    return [(names[a - 1], names[b - 1], (102, 204, 255)) for a, b in skeleton]
