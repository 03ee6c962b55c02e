from __future__ import annotations

import numpy as np
import pytest

from detkit.evaluation import ImageQuality
from detkit.report.gallery import evenly_spread, rank_images
from detkit.visualization.pictures import DrawnObject, draw_objects


def quality(image: int, hits: int, iou: float = 1.0, missed: int = 0) -> ImageQuality:
    return ImageQuality(image, hits=dict.fromkeys(range(hits), iou), missed=set(range(missed)))


def test_ranking() -> None:
    images = [quality(1, 1), quality(2, 3), quality(3, 0), quality(4, 0, missed=1), quality(5, 0, missed=2), quality(6, 1, iou=0.6)]
    best, worst = rank_images({q.image_id: q for q in images}, 2)
    assert best == [2, 1]
    assert worst == [5, 4]


@pytest.mark.parametrize("count", range(6))
def test_no_image_is_both_best_and_worst(count: int) -> None:
    best, worst = rank_images({i: quality(i, 1, iou=0.5 + i / 20) for i in range(count)}, 4)
    assert not set(best) & set(worst)
    assert len(best) + len(worst) == count


def test_evenly_spread() -> None:
    assert evenly_spread(range(100), 4) == [12, 37, 62, 87]
    assert evenly_spread(range(3), 8) == [0, 1, 2]
    assert evenly_spread([], 8) == []


def test_drawing_leaves_the_inside_of_a_box_and_colors_its_border() -> None:
    image = np.full((60, 100, 3), 128, np.uint8)
    drawn = draw_objects(image, [DrawnObject((20.0, 10.0, 80.0, 50.0), "", "#ff0000")])
    scale = drawn.shape[1] / 100
    assert max(drawn.shape) == 520
    assert drawn[round(30 * scale), round(20 * scale)].tolist() == [255, 0, 0]
    assert drawn[round(30 * scale), round(50 * scale)].tolist() == [128, 128, 128]


def test_masks_and_keypoints_are_drawn() -> None:
    image = np.full((60, 100, 3), 128, np.uint8)
    square = [[40, 20, 60, 20, 60, 40, 40, 40]]
    keypoints = np.array([[30.0, 15.0, 2.0], [75.0, 45.0, 0.0]])
    item = DrawnObject((20.0, 10.0, 80.0, 50.0), "", "#00ff00", segmentation=square, keypoints=keypoints)
    drawn = draw_objects(image, [item])
    scale = drawn.shape[1] / 100

    def pixel(x: float, y: float) -> list[int]:
        return drawn[round(y * scale), round(x * scale)].tolist()

    assert pixel(50, 30)[1] > 150 > pixel(50, 30)[0]
    assert pixel(30, 15) != [128, 128, 128]
    assert pixel(75, 45) == [128, 128, 128]
