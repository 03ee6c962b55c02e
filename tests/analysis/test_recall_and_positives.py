"""Counts of labels against cases that can be counted by hand, and on real images."""

from __future__ import annotations

import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from detkit.analysis import AssignmentSetting, LabeledImage, count_positives, fcos, labeled_images, plot_positives, recall_bound, retinanet
from detkit.assigners import Assigner, ATSSAssigner, FCOSAssigner
from detkit.dense import PriorGenerator
from detkit.geometry import square_anchors
from detkit.structures import GroundTruth
from tests.toys.detectors import tiny_cfg


def image(*boxes, classes=None, size=(64, 64)):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    labels = torch.tensor(classes or [0] * len(boxes))
    gt = GroundTruth(boxes[None], labels[None], torch.ones(1, len(boxes), dtype=torch.bool))
    return LabeledImage(size, gt, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def generator(strides):
    return PriorGenerator(strides=strides, cell_anchors=square_anchors(strides))


def one_level(radius=0.0):
    """Locations at 4, 12, 20, ... on both axes."""
    return AssignmentSetting("one", FCOSAssigner(sizes_of_interest=(), center_radius=radius), generator((8,)))


def test_ambiguity_is_counted_by_hand():
    # 2 x 2 locations in the first, 3 x 3 in the second, which contains the first; a third contains no location
    bound = recall_bound(one_level(), [image([0, 0, 16, 16], [0, 0, 24, 24], [5, 5, 11, 11])])
    assert (bound.objects, bound.recalled, bound.samples, bound.ambiguous, bound.ambiguous_classes) == (3, 2, 9, 4, 0)
    assert bound.best_possible_recall == pytest.approx(200 / 3) and bound.ambiguous_share == pytest.approx(400 / 9)


def test_an_object_that_others_cover_is_not_recalled():
    bound = recall_bound(one_level(), [image([0, 0, 16, 16], [0, 0, 16, 17], classes=[0, 1])])
    assert (bound.recalled, bound.ambiguous, bound.ambiguous_classes) == (1, 4, 4)


def test_classes_are_told_apart_among_three():
    bound = recall_bound(one_level(), [image([0, 0, 16, 16], [0, 0, 24, 24], [16, 16, 24, 24], classes=[1, 1, 2])])
    assert (bound.samples, bound.ambiguous, bound.ambiguous_classes) == (9, 5, 1)


def test_images_add_up():
    first, second = image([0, 0, 16, 16]), image([0, 0, 24, 24], [0, 0, 8, 8])
    together = recall_bound(one_level(), [first, second])
    assert together == recall_bound(one_level(), [first]) + recall_bound(one_level(), [second])
    assert together.samples == 13


def test_low_quality_matches_recall_what_thresholds_miss():
    small = [image([10, 10, 20, 18], size=(128, 128))]  # far smaller than the smallest anchor of 32 pixels
    assert recall_bound(retinanet(low_quality_from=None), small).recalled == 0
    assert recall_bound(retinanet(low_quality_from=0.4), small).recalled == 0
    assert recall_bound(retinanet(low_quality_from=0.0), small).recalled == 1


def test_positives_by_size_and_level():
    counts = count_positives(fcos(), [image([0, 0, 16, 16], [32, 32, 160, 160], size=(192, 192))])
    assert counts.level_names == ("P3", "P4", "P5", "P6", "P7")
    assert counts.per_level[0].tolist() == [4, 0, 0, 0, 0]
    assert counts.per_level[1].sum() == counts.totals[1] and counts.per_level[1, 1] > 0
    rows = counts.rows()
    assert rows["small"]["objects"] == 1 and rows["small"]["mean"] == 4 and rows["medium"]["objects"] == 0
    assert rows["large"]["objects"] == 1 and rows["all"]["mean"] == counts.totals.double().mean()
    plot_positives({"FCOS": counts})


def test_priors_cover_the_padded_image():
    priors = fcos().priors((100, 130))
    assert priors.grid.sizes == ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))


def test_setting_of_a_config():
    setting = AssignmentSetting.from_config(tiny_cfg("ATSS"), "mine")
    assert isinstance(setting.assigner, ATSSAssigner) and setting.strides == (8, 16, 32)
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match="mine: MODEL.META_ARCHITECTURE is 'GeneralizedRCNN'"):
        AssignmentSetting.from_config(cfg, "mine")


def test_assigners_that_see_predictions_are_refused():
    class Looks(Assigner):
        needs_predictions = True

    with pytest.raises(ValueError, match="Looks reads predictions"):
        AssignmentSetting("soft", Looks(), generator((8,)))


def test_records_are_resized_and_crowds_left_out():
    box = {"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}
    records = [{"height": 100, "width": 200, "annotations": [box, {**box, "iscrowd": 1}]}, {"height": 10, "width": 10, "annotations": []}]
    (only,) = labeled_images(records, min_size=200, max_size=1000)
    assert only.size == (200, 400) and only.areas.tolist() == [1200.0]
    torch.testing.assert_close(only.gt.boxes, torch.tensor([[[20.0, 40, 80, 120]]]))


@pytest.fixture(scope="module")
def coco_images(real_file):
    annotations = real_file("coco/annotations/instances_val2017.json")
    return list(labeled_images(load_coco_json(str(annotations), str(annotations.parents[1] / "val2017"))))


def test_recall_and_ambiguity_on_coco_are_near_the_paper(coco_images):
    with_fpn, on_p4 = recall_bound(fcos(), coco_images), recall_bound(fcos(single_level=4), coco_images)
    assert 98.9 <= with_fpn.best_possible_recall <= 99.6
    assert on_p4.best_possible_recall < with_fpn.best_possible_recall
    assert 6.5 <= with_fpn.ambiguous_share <= 7.5 and 3.0 <= with_fpn.ambiguous_classes_share <= 4.0
    assert on_p4.ambiguous_share > 3 * with_fpn.ambiguous_share


def test_atss_gives_every_size_alike(coco_images):
    strides = fcos().strides
    rows = count_positives(AssignmentSetting("ATSS", ATSSAssigner(), generator(strides)), coco_images).rows()
    expected = 0.2 * 9 * len(strides)  # section 4.1
    assert rows["all"]["mean"] == pytest.approx(expected, rel=0.1)
    assert rows["large"]["mean"] < 1.5 * rows["small"]["mean"]
    of_fcos = count_positives(fcos(), coco_images).rows()
    assert of_fcos["large"]["mean"] > 1.8 * of_fcos["small"]["mean"]
