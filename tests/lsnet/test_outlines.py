"""Contours and extreme points of outlines."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.data import polygon_bounds, signed_area
from lsnet.outlines import (
    box_outline,
    box_side_midpoints,
    contour,
    contours_of,
    drop_tiny_parts,
    extreme_points,
    largest_part,
    mirrored_contour,
    relabeled,
    resampled,
)

RECTANGLE = box_outline(np.array([10.0, 20.0, 70.0, 40.0]))


def star(vertices: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(vertices)) * 2 * np.pi
    radii = 30 + 20 * rng.random(vertices)
    return np.stack([60 + radii * np.cos(angles), 50 + radii * np.sin(angles)], axis=1)


def test_points_are_spread_along_the_outline() -> None:
    points = resampled(RECTANGLE, 16)
    np.testing.assert_allclose(np.hypot(*(np.roll(points, -1, axis=0) - points).T), 10)
    assert {tuple(corner) for corner in RECTANGLE} <= {tuple(point) for point in points}


@pytest.mark.parametrize("vertices", [3, 7, 36, 37, 90, 500])
@pytest.mark.parametrize("count", [18, 36, 72, 360])
def test_any_outline_has_as_many_points_as_asked_for(vertices: int, count: int) -> None:
    outline = star(vertices)
    points = resampled(outline, count)
    assert points.shape == (count, 2)
    known = {tuple(vertex) for vertex in outline}
    kept = {tuple(point) for point in points} & known
    assert len(kept) == min(vertices, count)  # all vertices stay, as long as there are not too many


def test_of_too_many_vertices_the_starts_of_the_longest_edges_stay() -> None:
    outline = np.array([[0.0, 0.0], [10.0, 0.0], [11.0, 0.0], [11.0, 9.0], [0.0, 9.0], [0.0, 8.5]])
    assert resampled(outline, 4).tolist() == [[0, 0], [11, 0], [11, 9], [0, 8.5]]


def test_the_remainder_of_rounding_goes_to_the_longest_edges() -> None:
    fan = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 0.1], [99.9, 0.2], [99.8, 0.3], [99.7, 0.4]])
    points = resampled(fan, 8)  # by their shares two long edges have four points each, and four short ones need one each: four too many
    np.testing.assert_allclose(points[:6], fan)  # the longest edge gives three, the next one
    np.testing.assert_allclose(points[6:], fan[5] + (fan[0] - fan[5]) * np.array([[1 / 3], [2 / 3]]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_points", [18, 36, 72])
def test_contours_start_at_the_top_and_run_the_same_way(seed: int, num_points: int) -> None:
    outline = star(25, seed)
    points = contour(outline, num_points)
    assert points.shape == (num_points, 2) and signed_area(points) < 0
    x0, y0, x1, _ = polygon_bounds([points])
    distances = np.hypot(*(points - [(x0 + x1) / 2, y0]).T)
    assert distances.argmin() == 0
    reversed_and_shifted = np.roll(outline[::-1], 7, axis=0)
    assert abs(signed_area(contour(reversed_and_shifted, num_points))) == pytest.approx(abs(signed_area(points)), rel=0.05)
    assert abs(signed_area(points)) == pytest.approx(abs(signed_area(outline)), rel=0.15)


def test_mirrored_contours_keep_their_start_and_their_direction() -> None:
    points = contour(star(25), 36)
    mirrored = mirrored_contour(points * [-1, 1])
    assert signed_area(mirrored) < 0
    assert mirrored[0].tolist() == (points[0] * [-1, 1]).tolist() and mirrored[1].tolist() == (points[-1] * [-1, 1]).tolist()


def test_tiny_parts_are_left_out() -> None:
    def box(width: float, height: float) -> np.ndarray:
        return box_outline(np.array([3.0, 3.0, 3.0 + width, 3.0 + height]))

    assert drop_tiny_parts([box(0.9, 50), box(50, 0.9), box(2, 2.5), RECTANGLE]) == [RECTANGLE]
    assert len(drop_tiny_parts([box(2, 2.6)])) == 1


def test_the_largest_part_is_the_one_with_most_area() -> None:
    wide = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 1.5], [0.0, 1.5]])
    assert largest_part([wide, RECTANGLE]) is RECTANGLE and largest_part([RECTANGLE]) is RECTANGLE


def test_an_object_of_tiny_parts_has_the_contour_of_its_box() -> None:
    box = np.array([10.0, 20.0, 70.0, 40.0])
    (points,) = contours_of([RECTANGLE / 100], box, 36)
    np.testing.assert_allclose(points, contour(RECTANGLE, 36))
    assert len(contours_of([RECTANGLE, RECTANGLE + 100], box, 36)) == 2


@pytest.mark.parametrize("outline", [np.full((4, 2), 3.0), np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 0.0], [5.0, 0.0]])])
def test_outlines_without_area_are_finite(outline: np.ndarray) -> None:
    points = contour(outline, 36)
    assert points.shape == (36, 2) and np.isfinite(points).all()


def test_ends_of_a_diamond() -> None:
    diamond = np.array([[20.0, 0.0], [0.0, 30.0], [20.0, 60.0], [40.0, 30.0]])
    assert extreme_points(diamond).tolist() == [[20, 0], [0, 30], [20, 60], [40, 30]]


def test_a_flat_end_is_met_in_its_middle_at_a_whole_pixel() -> None:
    house = np.array([[10.0, 0.0], [4.0, 0.5], [1.0, 40.0], [0.0, 99.0], [21.0, 99.0], [19.0, 2.5]])
    top, left, bottom, right = extreme_points(house)
    assert top.tolist() == [7, 0]  # from 4 to 10; the neighbor at 2.5 is more than 2 % of 100 pixels below
    assert bottom.tolist() == [10, 99]  # 10.5 rounded down
    assert left.tolist() == [0, 99] and right.tolist() == [21, 99]


def test_only_neighbors_belong_to_an_end() -> None:
    two_peaks = np.array([[0.0, 0.0], [10.0, 50.0], [20.0, 0.0], [20.0, 80.0], [0.0, 80.0]])
    assert extreme_points(two_peaks)[0].tolist() == [0, 0]


@pytest.mark.parametrize("points", [[[3.0, 4.0]], [[3.0, 4.0]] * 5, [[1.0, 2.0], [5.0, 2.0]]])
def test_objects_without_area(points: list[list[float]]) -> None:
    found = extreme_points(np.array(points))
    assert found.shape == (4, 2) and np.isfinite(found).all()
    assert found[0, 1] == min(y for _, y in points) and found[3, 0] == max(x for x, _ in points)


def test_midpoints_of_the_sides_of_boxes() -> None:
    expected = [[[20, 5], [10, 15], [20, 25], [30, 15]]]
    assert box_side_midpoints(np.array([[10.0, 5.0, 30.0, 25.0]])).tolist() == expected
    assert box_side_midpoints(np.zeros((0, 4))).shape == (0, 4, 2)


@pytest.mark.parametrize(
    "axes, order",
    [
        ([[2, 0], [0, 3]], [0, 1, 2, 3]),
        ([[-1, 0], [0, 1]], [0, 3, 2, 1]),
        ([[1, 0], [0, -1]], [2, 1, 0, 3]),
        ([[-1, 0], [0, -1]], [2, 3, 0, 1]),
        ([[0, -1], [1, 0]], [3, 0, 1, 2]),  # to the right became up: the old right end is the new top
    ],
)
def test_names_after_mirroring_and_turning(axes: list[list[int]], order: list[int]) -> None:
    extremes = np.arange(8.0).reshape(1, 4, 2)
    assert relabeled(extremes, np.array(axes, dtype=float)).tolist() == extremes[:, order].tolist()
