from __future__ import annotations

import numpy as np
import pytest
import torch

from detkit.data import set_categories
from detkit.data.keypoints import COCO_PERSON_KEYPOINTS
from lsnet.pictures import detect_with_stages, draw_landmarks, labeled_input, stages_figure
from lsnet.several_tasks import build_task
from tests.toys.outlines import SIZE

from .test_mapper import ALL_KINDS
from .test_whole import cfg_of, model_of

SETTINGS = (
    "MODEL.LSNET.TEST.SCORE_THRESH",
    0.0,
    "TEST.DETECTIONS_PER_IMAGE",
    3,
    "INPUT.MIN_SIZE_TEST",
    96,
    "DATASETS.TRAIN",
    ("pictures",),
)


@pytest.fixture(autouse=True)
def _metadata() -> None:
    set_categories("pictures", [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINTS)}])


@pytest.mark.parametrize("task", ["bbox", "segm", "pose", "bbox+pose+segm"])
def test_objects_and_both_stages_side_by_side(task: str, image_file) -> None:
    cfg = cfg_of(task, *SETTINGS)
    record = {"file_name": str(image_file), "height": SIZE[0], "width": SIZE[1], "image_id": 1, "annotations": ALL_KINDS}
    inputs = labeled_input(cfg, record)
    assert inputs["image"].shape == (3, 96, 128) and len(inputs["instances"]) == 5
    found = detect_with_stages(model_of(task, *SETTINGS).eval(), inputs["image"], score_thresh=0.0)
    assert found.first_landmarks.shape == found.pred_landmarks.shape and len(found) == 3
    assert not torch.equal(found.first_landmarks, found.pred_landmarks)
    figure = stages_figure(inputs, found, build_task(cfg), image_format=cfg.INPUT.FORMAT, dataset_name="pictures")
    assert [axes.get_title() for axes in figure.axes] == ["objects", "first stage", "second stage"]
    alone = stages_figure(inputs, None, build_task(cfg), image_format=cfg.INPUT.FORMAT, dataset_name="pictures")
    assert [axes.get_title() for axes in alone.axes] == ["objects"]


def test_landmarks_are_drawn_where_they_are() -> None:
    blank = np.full((120, 160, 3), 90, np.uint8)
    square = np.array([[[40.0, 20], [20, 40], [40, 60], [60, 40]]])
    drawn = draw_landmarks(blank, square, build_task(cfg_of("bbox")))
    scale = drawn.shape[1] / 160
    changed = (np.abs(drawn.astype(int) - drawn[-1, -1]) > 20).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)) / scale, np.flatnonzero(changed.any(0)) / scale
    np.testing.assert_allclose([columns[0], rows[0], columns[-1], rows[-1]], [20, 20, 60, 60], atol=3)


def test_what_is_not_known_is_not_drawn() -> None:
    """With several tasks an object without a mask has the outline of its box in the place of a contour, which is not learned."""
    blank, task = np.full((120, 160, 3), 90, np.uint8), build_task(cfg_of("segm"))
    angles = np.linspace(0, 2 * np.pi, task.landmarks.num_landmarks, endpoint=False)
    circle = np.stack([80 + 30 * np.sin(angles), 60 - 30 * np.cos(angles), np.ones_like(angles)], axis=1)[None]
    nothing = draw_landmarks(blank, circle[:0], task)
    assert not np.array_equal(draw_landmarks(blank, circle, task), nothing)
    assert np.array_equal(draw_landmarks(blank, circle * [1, 1, 0], task), nothing)
