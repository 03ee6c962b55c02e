from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from detkit.evaluation import coco_of, read_ground_truth
from lsnet.analysis import PAPER_BOUND, contour_bound, perfect_contours
from tests.toys.outlines import SIZE, bean


def ground_truth(*segmentations: Any) -> COCO:
    annotations = []
    for number, segmentation in enumerate(segmentations, start=1):
        runs = mask_util.merge(mask_util.frPyObjects(segmentation, *SIZE)) if isinstance(segmentation, list) else segmentation
        common = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
        annotations.append({**common, "bbox": mask_util.toBbox(runs).tolist(), "area": float(mask_util.area(runs))})
    image = {"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}
    return coco_of({"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]})


def test_simple_outlines_are_described_perfectly() -> None:
    triangle, pieces = [[10.0, 10, 60, 10, 10, 90]], [bean(40, 50, 25), bean(110, 60, 40)]
    assert contour_bound(ground_truth(triangle, pieces), 72).ap() == pytest.approx(100)


def test_more_landmarks_describe_more() -> None:
    comb = [[20.0, 100, *(value for x in range(20, 140, 8) for value in (x, 20, x + 4, 20, x + 4, 90, x + 8, 90)), 140, 100]]
    few, many = (contour_bound(ground_truth(comb), count).ap() for count in (18, 72))
    assert few < many


def test_the_largest_part_is_not_the_whole() -> None:
    truth = ground_truth([bean(30, 60, 24), bean(80, 60, 25), bean(130, 60, 24)])
    assert contour_bound(truth, 36, "largest").ap() == 0 and contour_bound(truth, 36).ap() > 90


def test_every_object_but_crowds_is_there() -> None:
    hole = np.ones(SIZE, np.uint8, order="F")
    hole[40:60, 40:60] = 0
    truth = ground_truth([bean()], mask_util.encode(hole), [[5.0, 5, 6, 5, 6, 6]])
    truth.anns[1]["iscrowd"] = 1
    found = list(perfect_contours(truth, 36))
    assert [detection["segmentation"]["size"] for detection in found] == [list(SIZE)] * 2
    assert mask_util.area(found[0]["segmentation"]) == pytest.approx(hole.size, rel=0.01)  # the outline knows no holes
    assert mask_util.area(found[1]["segmentation"]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("count", PAPER_BOUND)
def test_bound_on_real_masks(count: int, real_data: Path) -> None:
    truth = read_ground_truth(real_data / "coco" / "annotations" / "instances_val2017.json")
    assert contour_bound(truth, count).ap() == pytest.approx(PAPER_BOUND[count], abs=2.5)
