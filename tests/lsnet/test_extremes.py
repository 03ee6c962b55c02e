from __future__ import annotations

import numpy as np
import pytest

from lsnet.extremes import box_side_midpoints, extreme_points, relabeled


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
