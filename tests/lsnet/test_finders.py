"""Landmarks under augmentations, against what is seen in the augmented mask."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures.masks import polygons_to_bitmask
from pycocotools import mask as mask_util

from detkit.data import Motion, mask_to_polygons, polygon_bounds, signed_area
from lsnet.finders import ContourFinder, ExtremePointFinder, KeypointFinder, LandmarkFinder
from tests.toys.outlines import SIZE, annotation, bean

#: transforms and the size they lead to
MOTIONS: dict[str, tuple[list[T.Transform], tuple[int, int]]] = {
    "none": ([], SIZE),
    "larger": ([T.ResizeTransform(*SIZE, 300, 320)], (300, 320)),
    "mirrored": ([T.HFlipTransform(160)], SIZE),
    "upside down": ([T.VFlipTransform(120)], SIZE),
    "crop that keeps it": ([T.CropTransform(20, 10, 130, 100)], (100, 130)),
    "crop that cuts it": ([T.CropTransform(70, 30, 60, 60)], (60, 60)),
    "crop, mirrored, larger": ([T.CropTransform(70, 30, 60, 60), T.HFlipTransform(60), T.ResizeTransform(60, 60, 150, 150)], (150, 150)),
    "turned": ([T.RotationTransform(*SIZE, 25)], (176, 196)),
    "quarter turn": ([T.RotationTransform(*SIZE, 90)], (160, 120)),
    "half turn": ([T.RotationTransform(*SIZE, 180)], SIZE),
    "mirrored, turned and cut": ([T.HFlipTransform(160), T.RotationTransform(*SIZE, -40, expand=False)], SIZE),
}
OBJECTS = {
    "polygon": annotation([bean()]),
    "pieces": annotation([bean(40, 50, 25), bean(110, 60, 40), [1.0, 1, 2, 1, 2, 2]]),
    "runs": annotation(mask_util.encode(np.asfortranarray(polygons_to_bitmask([np.array(bean())], *SIZE).astype(np.uint8)))),
}


def find(finder: LandmarkFinder, thing: dict, transforms: list[T.Transform], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    motion = Motion(T.TransformList(transforms), SIZE, size)
    return finder(thing, motion.boxes(np.array(thing["bbox"]))[0], motion)


def seen(thing: dict, transforms: list[T.Transform], size: tuple[int, int]) -> np.ndarray:
    """The object's mask in the augmented image, by way of a finely sampled image of the object."""
    fine = 4
    x, y = np.meshgrid((np.arange(SIZE[1] * fine) + 0.5) / fine, (np.arange(SIZE[0] * fine) + 0.5) / fine)
    segmentation = thing["segmentation"]
    parts = mask_to_polygons(mask_util.decode(segmentation)) if isinstance(segmentation, dict) else segmentation
    mask = polygons_to_bitmask([np.ravel(part) * fine for part in parts], SIZE[0] * fine, SIZE[1] * fine)
    moved = T.TransformList(transforms).apply_coords(np.stack([x[mask], y[mask]], axis=1))
    column, row = np.floor(moved).astype(int).T
    inside = (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    found = np.zeros(size, bool)
    found[row[inside], column[inside]] = True
    return found


@pytest.mark.parametrize("thing", OBJECTS)
@pytest.mark.parametrize("motion", MOTIONS)
def test_extreme_points_lie_where_the_object_ends(motion: str, thing: str) -> None:
    landmarks, box = find(ExtremePointFinder(), OBJECTS[thing], *MOTIONS[motion])
    mask = seen(OBJECTS[thing], *MOTIONS[motion])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    (_, y0), (x0, _), (_, y1), (x1, _) = landmarks[:, :2]
    tolerance = 1.5 * max(1, MOTIONS[motion][1][0] / 120)
    np.testing.assert_allclose([x0, y0, x1, y1], bounds, atol=tolerance)
    np.testing.assert_allclose(box, bounds, atol=tolerance)
    assert (landmarks[:, 2] == 2).all()
    for x, y in landmarks[:, :2]:  # the other coordinate: part of the object is near
        near = mask[max(int(y) - 5, 0) : int(y) + 6, max(int(x) - 5, 0) : int(x) + 6]
        assert near.any(), (x, y)


@pytest.mark.parametrize("thing", OBJECTS)
@pytest.mark.parametrize("motion", MOTIONS)
def test_contours_enclose_the_largest_visible_part(motion: str, thing: str) -> None:
    landmarks, _ = find(ContourFinder(36), OBJECTS[thing], *MOTIONS[motion])
    points, size = landmarks[:, :2], MOTIONS[motion][1]
    pieces = [polygons_to_bitmask([part.ravel()], *size) for part in mask_to_polygons(seen(OBJECTS[thing], *MOTIONS[motion]))]
    largest = max(pieces, key=np.sum)
    enclosed = polygons_to_bitmask([points.ravel()], *size)
    assert (largest & enclosed).sum() / (largest | enclosed).sum() > 0.93
    assert signed_area(points) < 0
    x0, y0, x1, _ = polygon_bounds([points])
    assert np.hypot(*(points - [(x0 + x1) / 2, y0]).T).argmin() == 0


@pytest.mark.parametrize("motion", ["larger", "mirrored", "crop that keeps it"])
def test_landmarks_of_whole_objects_move_with_the_image(motion: str) -> None:
    transforms, size = MOTIONS[motion]
    for finder in (ExtremePointFinder(), ContourFinder(36)):
        still, _ = find(finder, OBJECTS["polygon"], [], SIZE)
        moved, _ = find(finder, OBJECTS["polygon"], transforms, size)
        expected = T.TransformList(transforms).apply_coords(still[:, :2].copy())
        key = lambda points: sorted(map(tuple, np.round(points, 6)))  # noqa: E731  the order is tested above
        assert key(moved[:, :2]) == key(expected)


@pytest.mark.parametrize("finder", [ExtremePointFinder(), ContourFinder(18)], ids=["extremes", "contour"])
@pytest.mark.parametrize("motion", ["none", "mirrored", "crop that cuts it", "turned"])
def test_objects_without_a_mask_have_the_landmarks_of_their_box(finder: LandmarkFinder, motion: str) -> None:
    transforms, size = MOTIONS[motion]
    landmarks, box = find(finder, annotation(box=[60, 40, 100, 80]), transforms, size)
    np.testing.assert_allclose(polygon_bounds([landmarks[:, :2]]), box, atol=1e-6 if finder.num_landmarks == 4 else 3)
    expected = Motion(T.TransformList(transforms), SIZE, size).boxes(np.array([60, 40, 100, 80]))[0]
    np.testing.assert_allclose(box, expected)


@pytest.mark.parametrize("finder", [ExtremePointFinder(), ContourFinder(36), KeypointFinder(range(4))], ids=["extremes", "contour", "pose"])
def test_an_object_out_of_sight_has_no_box(finder: LandmarkFinder) -> None:
    away = [T.CropTransform(0, 0, 30, 30)]
    landmarks, box = find(finder, annotation([bean(120, 80, 20)]), away, (30, 30))
    assert not box.any() and np.isfinite(landmarks).all()


@pytest.mark.parametrize("finder", [ExtremePointFinder(), ContourFinder(36), KeypointFinder(range(4))], ids=["extremes", "contour", "pose"])
@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize(
    "segmentation",
    [
        [[80.0, 60, 81, 60, 81, 61, 80, 61]],
        mask_util.encode(np.asfortranarray(np.pad(np.ones((1, 1), np.uint8), ((60, 59), (80, 79))))),
        [[80.0, 60, 80, 60, 80, 60]],
        [[70.0, 60, 90, 60, 70, 60]],
    ],
    ids=["one pixel", "one pixel, runs", "a point", "a line"],
)
def test_the_smallest_objects_have_finite_landmarks(finder: LandmarkFinder, motion: str, segmentation: object) -> None:
    landmarks, box = find(finder, annotation(segmentation), *MOTIONS[motion])
    assert landmarks.shape == (finder.num_landmarks, 3) and np.isfinite(landmarks).all() and np.isfinite(box).all()


def test_holes_are_ignored() -> None:
    ring = np.zeros(SIZE, np.uint8)
    ring[20:100, 30:130] = 1
    ring[30:90, 40:120] = 0
    landmarks, _ = find(ContourFinder(36), annotation(mask_util.encode(np.asfortranarray(ring))), [], SIZE)
    assert abs(signed_area(landmarks[:, :2])) == pytest.approx(80 * 100, rel=0.02)


class TestKeypoints:
    """Four keypoints: nose, left hand, right hand, tail; hidden, seen, seen, not labeled."""

    finder = KeypointFinder([0, 2, 1, 3])
    thing = annotation(box=[10, 10, 90, 90], keypoints=[[50, 20, 1], [80, 40, 2], [20, 40, 2], [0, 0, 0]])

    def test_they_stay(self) -> None:
        landmarks, box = find(self.finder, self.thing, [], SIZE)
        assert landmarks.ravel().tolist() == self.thing["keypoints"] and box.tolist() == self.thing["bbox"]

    @pytest.mark.parametrize("motion", ["mirrored", "upside down"])
    def test_left_and_right_change_places_in_every_mirror(self, motion: str) -> None:
        transforms, size = MOTIONS[motion]
        landmarks, _ = find(self.finder, self.thing, transforms, size)
        given = np.array(self.thing["keypoints"]).reshape(4, 3)
        expected = T.TransformList(transforms).apply_coords(given[[0, 2, 1], :2].copy())
        np.testing.assert_allclose(landmarks[:3, :2], expected)
        assert landmarks[:, 2].tolist() == [1, 2, 2, 0]

    @pytest.mark.parametrize("motion", ["turned", "half turn", "quarter turn"])
    def test_they_keep_their_names_when_turned(self, motion: str) -> None:
        transforms, size = MOTIONS[motion]
        landmarks, _ = find(self.finder, self.thing, transforms, size)
        given = np.array(self.thing["keypoints"]).reshape(4, 3)
        np.testing.assert_allclose(landmarks[:3, :2], T.TransformList(transforms).apply_coords(given[:3, :2].copy()))

    def test_those_out_of_the_image_are_unknown(self) -> None:
        landmarks, _ = find(self.finder, self.thing, [T.CropTransform(0, 30, 60, 60)], (60, 60))
        assert landmarks[:, 2].tolist() == [0, 0, 2, 0]  # the two visible ones of the other side are gone

    @pytest.mark.parametrize("thing", [annotation(box=[1, 1, 9, 9]), annotation(box=[1, 1, 9, 9], keypoints=np.zeros((4, 3)))])
    def test_objects_without_keypoints(self, thing: dict) -> None:
        landmarks, box = find(self.finder, thing, *MOTIONS["mirrored"])
        assert landmarks.shape == (4, 3) and not landmarks[:, 2].any() and np.isfinite(landmarks).all()
        assert box.tolist() == [151, 1, 159, 9]

    @pytest.mark.parametrize("thing", OBJECTS)
    @pytest.mark.parametrize("motion", MOTIONS)
    def test_boxes_are_as_tight_as_those_of_extreme_points(self, motion: str, thing: str) -> None:
        _, box = find(self.finder, OBJECTS[thing], *MOTIONS[motion])
        _, expected = find(ExtremePointFinder(), OBJECTS[thing], *MOTIONS[motion])
        np.testing.assert_array_equal(box, expected)

    def test_a_box_at_the_border_of_its_image_stays(self) -> None:
        thing = annotation([[0.0, 20, 70, 20, 40, 120]], box=[0, 19, 72, 120])  # not exactly that of the mask
        for motion in ("none", "mirrored", "larger"):
            transforms, size = MOTIONS[motion]
            _, box = find(self.finder, thing, transforms, size)
            np.testing.assert_array_equal(box, Motion(T.TransformList(transforms), SIZE, size).boxes(np.array(thing["bbox"]))[0])

    @pytest.mark.parametrize("motion", ["none", "larger", "mirrored", "crop that keeps it", "half turn"])
    def test_masks_are_not_looked_at_where_nothing_is_cut(self, motion: str) -> None:
        unread = annotation(object(), box=[50, 30, 100, 90])
        _, box = find(self.finder, unread, *MOTIONS[motion])
        assert box.all()

    def test_another_number_of_keypoints_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="has 2 keypoints, but the dataset's metadata names 4"):
            find(self.finder, annotation(box=[1, 1, 9, 9], keypoints=np.zeros((2, 3))), [], SIZE)
