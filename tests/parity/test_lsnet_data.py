"""From annotations to the landmarks of LSNet: extreme points, contours, keypoints and their boxes, as the official code prepares them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_FLIP_MAP, COCO_PERSON_KEYPOINT_NAMES
from numpy.typing import NDArray

from detkit.data import Motion, polygons_of
from lsnet.finders import ContourFinder, ExtremePointFinder, KeypointFinder, LandmarkFinder, keypoint_box
from lsnet.outlines import box_side_midpoints, contours_of, extreme_points, mirrored_contour, oriented, resampled, started_at_top

from .cases import GoldenCase, find_cases
from .compare import Recorder

RecorderOf = Callable[[GoldenCase], Recorder]
CASES = find_cases("landmark_targets", sets=("lsnet",))
Array = NDArray[np.float64]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_landmarks_of_annotations(case: GoldenCase, recorder_of: RecorderOf) -> None:
    settings = case.hyperparameters
    if (settings["extreme_threshold"], settings["spline_num"]) != (0.02, 10):
        pytest.skip("extreme points and contours with other constants than the official ones")
    compared = Compared(case, recorder_of(case))
    for number, image in enumerate(case.meta["scalars"]["annotations"]):
        _compare_image(compared, number, image)
        _compare_keypoints(compared, number, tuple(image["hw"]))
    _compare_pieces(compared)
    left = set(case.arrays) - compared.seen
    assert not left, f"{case.id}: not compared: {sorted(left)}"


class Compared:
    """Compares arrays of a case and remembers which."""

    def __init__(self, case: GoldenCase, recorder: Recorder) -> None:
        self.case, self.recorder, self.seen = case, recorder, set[str]()

    def names(self, pattern: str) -> list[str]:
        return [name for name in self.case.arrays if re.fullmatch(pattern, name)]

    def array(self, name: str) -> Array:
        self.seen.add(name)
        return self.case.arrays[name].astype(np.float64)

    def close(self, name: str, actual: Array, *, rows: NDArray[np.bool_] | None = None) -> None:
        """``rows``: of the stored array, if not all."""
        expected = self.array(name) if rows is None else self.array(name)[rows]
        self.recorder.close("targets", name, torch.from_numpy(actual.reshape(expected.shape)), torch.from_numpy(expected))


def _compare_image(compared: Compared, number: int, image: dict[str, Any]) -> None:
    boxes, size, outlines = compared.array(f"boxes{number}"), tuple(image["hw"]), image["segmentation"]
    num_points = compared.case.hyperparameters["num_contour_points"]

    def found(finder: LandmarkFinder, *transforms: T.Transform) -> Array:
        motion = Motion(T.TransformList(list(transforms)), size, size)
        pairs = zip(outlines, motion.boxes(boxes), strict=True)
        return np.stack([finder({"segmentation": outline}, box, motion)[0][:, :2] for outline, box in pairs])

    mirror, upside_down = T.HFlipTransform(size[1]), T.VFlipTransform(size[0])
    compared.close(f"extremes{number}", _with_centers(found(ExtremePointFinder()), boxes))
    compared.close(f"extremes_flip_horizontal{number}", _with_centers(found(ExtremePointFinder(), mirror), mirror.apply_box(boxes)))
    compared.close(f"extremes_flip_vertical{number}", _with_centers(found(ExtremePointFinder(), upside_down), upside_down.apply_box(boxes)))
    compared.close(f"border_centres{number}", _with_centers(box_side_midpoints(boxes), boxes))

    contours = found(ContourFinder(num_points))
    bounds = np.concatenate([contours.min(axis=1), contours.max(axis=1)], axis=1)
    compared.close(f"contour_box{number}", bounds)
    compared.close(f"contour{number}", _with_centers(contours, bounds))
    compared.close(f"contour_flip_horizontal{number}", found(ContourFinder(num_points), mirror))
    # of an object upside down, our contours start at what is now the top, the official ones where they started before
    motion = Motion(T.TransformList([upside_down]), size, size)
    compared.close(f"contour_flip_vertical{number}", mirrored_contour(motion.points(contours)))
    for name in compared.names(rf"parts{number}_\d+"):
        index = int(name.split("_")[1])
        compared.close(name, np.stack(contours_of(polygons_of(outlines[index]), boxes[index], num_points)))


def _compare_keypoints(compared: Compared, number: int, size: tuple[int, int]) -> None:
    boxes, given = compared.array(f"boxes{number}"), compared.array(f"keypoints{number}")
    finder = KeypointFinder(_mirrored_order())

    def found(*transforms: T.Transform) -> Array:
        motion = Motion(T.TransformList(list(transforms)), size, size)
        return np.stack([finder({"keypoints": points}, box, motion)[0] for points, box in zip(given, boxes, strict=True)])

    keypoints = found()
    compared.close(f"vis{number}", keypoints[..., 2])
    compared.close(f"keypoints_flip{number}", found(T.HFlipTransform(size[1])))
    compared.close(f"kps_bbox{number}", _with_centers(keypoints[..., :2], boxes))
    # without a labeled keypoint the official code has a box that no location matches; we leave the object out
    known = (keypoints[..., 2] > 0).any(axis=1)
    around = np.stack([keypoint_box(points) for points in keypoints])
    assert not around[~known].any()
    compared.close(f"kbox{number}", around[known], rows=known)
    compared.close(f"kps_kbox{number}", _with_centers(keypoints[..., :2], around)[known], rows=known)


def _compare_pieces(compared: Compared) -> None:
    pixels = [np.argwhere(mask)[:, ::-1] for mask in compared.array("masks")]
    compared.close("mask_extremes", np.stack([extreme_points(points) for points in pixels]))
    for name in compared.names(r"us_in\d+"):
        outline, number = compared.array(name), name.removeprefix("us_in")
        compared.close(f"us_out{number}", resampled(outline, len(compared.array(f"us_out{number}"))))
        compared.close(f"us_cw{number}", started_at_top(oriented(outline)))


def _with_centers(landmarks: Array, boxes: Array) -> Array:
    """Landmarks (N, V, 2) and the centers of boxes (N, 4) as one more: (N, V + 1, 2)."""
    return np.concatenate([landmarks, ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]], axis=1)


def _mirrored_order() -> list[int]:
    other_side = {**dict(COCO_PERSON_KEYPOINT_FLIP_MAP), **{b: a for a, b in COCO_PERSON_KEYPOINT_FLIP_MAP}}
    return [COCO_PERSON_KEYPOINT_NAMES.index(other_side.get(name, name)) for name in COCO_PERSON_KEYPOINT_NAMES]
