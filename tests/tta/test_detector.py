"""Multi-scale testing of a model whose answers are known, and of a real one."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detkit.config import ConfigError
from detkit.tta import (
    Averaged,
    BoxVoting,
    Derived,
    Followed,
    MultiScaleDetector,
    NonMaximumSuppression,
    ScoredPoints,
    SoftVoting,
    build_multi_scale_detector,
    check_tta_config,
    field_rules,
    mirror_masks,
    mirror_points,
    standard_fields,
)
from tests.config.architectures import CONFIGS, config_name, read
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg

LEFT_RIGHT = (1, 0, 2)


class SeesBrightness(nn.Module):
    """Finds the box of all bright pixels; its keypoints are the left end, the right end and the middle of the top side."""

    def __init__(self, *, keypoints: bool = False, masks: bool = False) -> None:
        super().__init__()
        self.keypoints, self.masks = keypoints, masks
        self.batches: list[list[tuple[int, int]]] = []

    def forward(self, inputs: list[dict]) -> list[dict[str, Instances]]:
        self.batches.append([tuple(x["image"].shape[1:]) for x in inputs])
        return [{"instances": self.one(x)} for x in inputs]

    def one(self, inputs: dict) -> Instances:
        image = inputs["image"]
        rows, columns = (image[0] > 128).nonzero().unbind(1)
        left, top, right, bottom = (float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        found = Instances(tuple(image.shape[1:]))
        found.pred_boxes = Boxes(torch.tensor([[left, top, right, bottom]]))
        found.scores, found.pred_classes = torch.tensor([0.8]), torch.tensor([0])
        if self.keypoints:
            found.pred_keypoints = torch.tensor([[[left, top, 1.0], [right, top, 2.0], [(left + right) / 2, top, 3.0]]])
        result = detector_postprocess(found, inputs["height"], inputs["width"])
        if self.masks:
            result.pred_masks = torch.zeros(1, *result.image_size, dtype=torch.bool)
            result.pred_masks[:, :, : round(float(result.pred_boxes.tensor[0, 0]))] = True
        return result


def image_with_box(box: tuple[int, int, int, int], size: tuple[int, int] = (64, 96)) -> dict:
    """An image in the size of its file; a box on multiples of 4 survives every resizing here."""
    left, top, right, bottom = box
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    return {"image": image, "height": size[0], "width": size[1]}


def multi_scale(model: nn.Module, **changed) -> MultiScaleDetector:
    arguments = {"min_sizes": (32, 64, 128), "max_size": 400, "merge_rule": BoxVoting(threshold=0.5)}
    return MultiScaleDetector(model=model, **(arguments | changed)).eval()


def test_every_view_finds_the_box_in_the_original_image():
    model = SeesBrightness()
    views = list(multi_scale(model).views(image_with_box((8, 16, 40, 56))))
    assert [(view.scale, view.mirrored) for view in views] == [(scale, mirrored) for scale in range(3) for mirrored in (False, True)]
    assert model.batches == [[(32, 48)] * 2, [(64, 96)] * 2, [(128, 192)] * 2]
    for view in views:
        torch.testing.assert_close(view.detections.pred_boxes, torch.tensor([[8.0, 16.0, 40.0, 56.0]]), rtol=0, atol=1.5)


def test_views_merge_to_one_detection_in_detectron2s_form():
    (output,) = multi_scale(SeesBrightness())([image_with_box((8, 16, 40, 56))])
    found = output["instances"]
    assert isinstance(found.pred_boxes, Boxes) and found.image_size == (64, 96) and len(found) == 1
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[8.0, 16.0, 40.0, 56.0]]), rtol=0, atol=1.0)
    torch.testing.assert_close(found.scores, torch.tensor([0.8]))
    assert found.pred_classes.tolist() == [0]


def test_without_flip_and_with_a_longest_side():
    model = SeesBrightness()
    multi_scale(model, flip=False, max_size=96)([image_with_box((8, 16, 40, 56))])
    assert model.batches == [[(32, 48)], [(64, 96)], [(64, 96)]]


@pytest.mark.parametrize(
    "box, unit, counts",
    [
        ((0, 0, 8, 8), "original", [1, 0, 0]),  # sqrt(area) 8, of any scale: measured in the original image
        ((0, 0, 40, 40), "original", [0, 1, 1]),  # both ends of a range belong to it
        ((0, 0, 80, 20), "original", [0, 1, 1]),
        ((0, 0, 64, 64), "original", [0, 0, 1]),
        ((0, 0, 8, 8), "input", [1, 0, 0]),  # 4, 8 and 16
        ((0, 0, 16, 16), "input", [1, 0, 0]),
        ((0, 0, 20, 20), "input", [1, 0, 1]),  # 10, 20 and 40: again with an end
        ((0, 0, 80, 20), "input", [1, 1, 1]),  # 20, 40 and 80
        ((0, 0, 64, 64), "input", [1, 0, 1]),  # 32, 64 and 128
        ((0, 0, 66, 66), "input", [0, 0, 1]),
    ],
)
def test_each_scale_keeps_boxes_of_its_range_of_areas(box, unit, counts):
    detector = multi_scale(SeesBrightness(), area_ranges=((0, 32), (32, 40), (40, 1e4)), area_unit=unit)
    views = [view for view in detector.views(image_with_box(box)) if not view.mirrored]
    exact = torch.tensor([box]).float()
    for view in views:
        view.detections.pred_boxes = exact
    assert [len(detector._in_area_range(view)) for view in views] == counts


@pytest.mark.parametrize("unit, found", [("original", 0), ("input", 1)])
def test_the_unit_of_areas_decides_about_a_box(unit, found):
    """sqrt(area) is 40 in the file, 80 in the version; the image is handed over in half the size of its file."""
    inputs = image_with_box((0, 0, 20, 20)) | {"height": 128, "width": 192}
    (output,) = multi_scale(SeesBrightness(), min_sizes=(256,), area_ranges=((60, 100),), area_unit=unit)([inputs])
    assert len(output["instances"]) == found


def test_an_image_whose_detections_no_range_wants():
    detector = multi_scale(SeesBrightness(), area_ranges=((1000, 2000),) * 3)
    (output,) = detector([image_with_box((0, 0, 8, 8))])
    assert len(output["instances"]) == 0 and output["instances"].pred_boxes.tensor.shape == (0, 4)


# fields -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [NonMaximumSuppression(threshold=0.5), BoxVoting(threshold=0.5)], ids=lambda way: type(way).__name__)
def test_keypoints_change_sides_with_the_image_and_merge_with_their_box(way):
    detector = multi_scale(SeesBrightness(keypoints=True), fields=standard_fields(LEFT_RIGHT), merge_rule=way)
    (output,) = detector([image_with_box((8, 16, 40, 56))])
    expected = torch.tensor([[[8.0, 16.0], [40.0, 16.0], [24.0, 16.0]]])
    torch.testing.assert_close(output["instances"].pred_keypoints[..., :2], expected, rtol=0, atol=1.0)


def test_keypoints_are_averaged_with_the_weights_of_their_box():
    views = list(multi_scale(SeesBrightness(keypoints=True), fields=standard_fields(LEFT_RIGHT)).views(image_with_box((8, 16, 40, 56))))[:2]
    for view, score, shift in zip(views, (0.9, 0.3), (0.0, 4.0), strict=True):
        view.detections.scores = torch.tensor([score])
        view.detections.pred_boxes = torch.tensor([[8.0, 16.0, 40.0, 56.0]]) + shift
        view.detections.pred_keypoints = torch.tensor([[[8.0, 16.0, 1.0]] * 3]) + shift
    merged = multi_scale(SeesBrightness(), fields=standard_fields(LEFT_RIGHT)).merge(views)
    torch.testing.assert_close(merged.pred_boxes.tensor, torch.tensor([[9.0, 17.0, 41.0, 57.0]]))
    torch.testing.assert_close(merged.pred_keypoints, torch.tensor([[[9.0, 17.0, 2.0]] * 3]))


@pytest.mark.parametrize("way", [BoxVoting(threshold=0.5), SoftVoting(threshold=0.5, min_score=0.01)], ids=lambda way: type(way).__name__)
def test_scored_points_carry_the_score_of_the_merged_detection(way):
    detector = multi_scale(SeesBrightness(keypoints=True), fields=field_rules({"pred_keypoints": ScoredPoints}, LEFT_RIGHT), merge_rule=way)
    views = list(detector.views(image_with_box((8, 16, 40, 56))))[:2]
    for view, score, shift in zip(views, (0.9, 0.3), (0.0, 4.0), strict=True):
        view.detections.scores = torch.tensor([score])
        view.detections.pred_boxes = torch.tensor([[8.0, 16.0, 40.0, 56.0]]) + shift
        view.detections.pred_keypoints = torch.tensor([[[8.0 + shift, 16.0 + shift, score]] * 3])
    merged = detector.merge(views)
    assert len(merged) == (2 if isinstance(way, SoftVoting) else 1)
    torch.testing.assert_close(merged.pred_keypoints[0], torch.tensor([[9.0, 17.0, 0.9]] * 3))
    torch.testing.assert_close(merged.pred_keypoints[..., 2], merged.scores[:, None].expand(-1, 3), rtol=0, atol=0)


def test_a_models_own_rules_come_first():
    own = Averaged(mirror_points())
    rules = field_rules({"pred_keypoints": ScoredPoints, "pred_corners": own}, LEFT_RIGHT)
    assert set(rules) == {"pred_masks", "pred_keypoints", "pred_corners"}
    assert isinstance(rules["pred_keypoints"], ScoredPoints) and rules["pred_corners"] is own
    assert set(field_rules({"pred_keypoints": ScoredPoints})) == {"pred_masks"}  # a dataset that does not say how they mirror


def test_masks_follow_their_box():
    (output,) = multi_scale(SeesBrightness(masks=True))([image_with_box((8, 16, 40, 56))])
    mask = output["instances"].pred_masks
    # left of the box; the masks of mirrored versions lie right of it, so they were turned back or lost to the first view
    assert mask.shape == (1, 64, 96) and mask[0, :, :8].all() and not mask[0, :, 8:].any()


def test_derived_fields_come_from_the_merged_detections():
    def half_masks(found: Instances) -> Tensor:
        return torch.full((len(found), *found.image_size), 1.0) * found.scores.view(-1, 1, 1)

    detector = multi_scale(SeesBrightness(masks=True), fields={"pred_masks": Derived(half_masks)})
    views = list(detector.views(image_with_box((8, 16, 40, 56))))
    assert not any(view.detections.has("pred_masks") for view in views)
    torch.testing.assert_close(detector.merge(views).pred_masks, torch.full((1, 64, 96), 0.8))


def test_derived_fields_may_follow_from_any_other():
    fields = {"pred_center": Derived(lambda found: found.pred_keypoints.mean(1)), **standard_fields(LEFT_RIGHT)}
    (output,) = multi_scale(SeesBrightness(keypoints=True), fields=fields)([image_with_box((8, 16, 40, 56))])
    torch.testing.assert_close(output["instances"].pred_center[:, :2], torch.tensor([[24.0, 16.0]]), rtol=0, atol=1.0)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="merge the field 'pred_keypoints'.*tta_fields"):
        multi_scale(SeesBrightness(keypoints=True))([image_with_box((8, 16, 40, 56))])


def test_mirrors_are_their_own_inverse():
    points = torch.rand(4, 3, 3)
    for mirror in (mirror_points(LEFT_RIGHT), mirror_points()):
        torch.testing.assert_close(mirror(mirror(points, 20), 20), points)
    torch.testing.assert_close(
        mirror_points(LEFT_RIGHT)(torch.tensor([[[1.0, 5.0], [7.0, 6.0], [3.0, 4.0]]]), 10)[0, 0], torch.tensor([3.0, 6.0])
    )
    masks = torch.rand(2, 4, 5) > 0.5
    assert torch.equal(mirror_masks(mirror_masks(masks, 5), 5), masks)


# a real model and the config --------------------------------------------------------------------------------------------------------------


def small_cfg(*overrides, method: str = "FCOS"):
    cfg = tiny_sparse_cfg() if method == "SparseRCNN" else tiny_cfg(method)
    cfg.MODEL.FCOS.TEST.SCORE_THRESH = 0.001
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (64,), 200
    cfg.merge_from_list(["TEST.AUG.FLIP", False, "TEST.AUG.MERGE_THRESH", 1.0, *overrides])
    return cfg


def plain_and_merged(cfg) -> tuple[Instances, Instances]:
    """What a model of random weights finds on noise, alone and by multi-scale testing; best first."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    (inputs,) = random_inputs(1, size=(64, 96))
    with torch.no_grad():
        plain = model([inputs])[0]["instances"]
    merged = build_multi_scale_detector(cfg, model, "shapes_val")([inputs])[0]["instances"]
    return plain[plain.scores.argsort(descending=True, stable=True)], merged


@pytest.mark.parametrize("merge", ["nms", "vote", "soft_vote"])
@pytest.mark.parametrize("method", ["FCOS", "SparseRCNN"])
def test_one_scale_without_merging_is_the_plain_result(method, merge):
    plain, merged = plain_and_merged(small_cfg("TEST.AUG.MERGE", merge, method=method))
    assert len(plain) > 20
    for name in ("scores", "pred_classes"):
        torch.testing.assert_close(merged.get(name), plain.get(name), rtol=0, atol=0)
    torch.testing.assert_close(merged.pred_boxes.tensor, plain.pred_boxes.tensor, rtol=0, atol=0)


def test_config_reaches_the_detector():
    ranges = [[96, 10000], [0, 256]]
    cfg = small_cfg(
        "TEST.AUG.MIN_SIZES", (400, 800), "TEST.AUG.MAX_SIZE", 1333, "TEST.AUG.AREA_RANGES", ranges, "TEST.AUG.MERGE", "soft_vote"
    )
    cfg.merge_from_list(
        ["TEST.AUG.AREA_UNIT", "input", "TEST.DETECTIONS_PER_IMAGE", 7, "TEST.AUG.MERGE_THRESH", 0.66, "TEST.AUG.SOFT_VOTE_MIN_SCORE", 0.01]
    )
    model = nn.Module()
    model.tta_fields = {"pred_extreme_points": Averaged(mirror_points((0, 3, 2, 1)))}
    MetadataCatalog.get("with_keypoints").set(
        keypoint_names=["nose", "left_eye", "right_eye"], keypoint_flip_map=[("left_eye", "right_eye")]
    )
    detector = build_multi_scale_detector(cfg, model, "with_keypoints")
    assert detector.area_ranges == tuple(ranges) and detector.area_unit == "input" and detector.max_detections == 7
    assert (detector.merge_rule.threshold, detector.merge_rule.min_score) == (0.66, 0.01)
    assert set(detector.fields) == {"pred_masks", "pred_keypoints", "pred_extreme_points"}
    turned = detector.fields["pred_keypoints"].mirror(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]]), 10)
    assert turned[0, :, 0].tolist() == [9.0, 7.0, 8.0]
    assert isinstance(detector.fields["pred_masks"], Followed)


METHODS = ("atss", "lsnet", "sparsercnn")


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem.endswith("_ms_test") and p.parent.name in METHODS], ids=config_name)
def test_configs_follow_the_published_codes(path):
    cfg = read(path)
    check_tta_config(cfg)
    assert cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.AREA_UNIT == "input"
    assert (800 in cfg.TEST.AUG.MIN_SIZES) == (path.parent.name != "lsnet")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MIN_SIZES", (), "one or more sizes"),
        ("MIN_SIZES", (-1, 32), r"in \[1, inf\)"),
        ("MAX_SIZE", 32, "MAX_SIZE is 32. It has to be at least the greatest"),
        ("AREA_RANGES", [[0, 1], [0, 1]], r"one \[min, max\] for each of the 1 TEST.AUG.MIN_SIZES"),
        ("AREA_RANGES", [[5, 1]], r"\[min, max\]"),
        ("AREA_RANGES", [5], r"\[min, max\]"),
        ("SOFT_VOTE_MIN_SCORE", 0.3, "does not read it"),
    ],
)
def test_impossible_values_are_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_multi_scale_detector(small_cfg(f"TEST.AUG.{key}", value), nn.Module(), "shapes_val")


def test_sizes_and_ranges_must_fit():
    with pytest.raises(ValueError, match="3 sizes and 1 ranges"):
        multi_scale(nn.Module(), area_ranges=((0, 1),))
    with pytest.raises(ValueError, match="'pixels'; it is one of original, input"):
        multi_scale(nn.Module(), area_unit="pixels")


def test_an_image_in_another_size_than_its_file_gives_boxes_of_the_file():
    inputs = image_with_box((8, 16, 40, 56)) | {"height": 128, "width": 192}
    (output,) = multi_scale(SeesBrightness(), min_sizes=(64, 128))([inputs])
    found = output["instances"]
    assert found.image_size == (128, 192)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[16.0, 32.0, 80.0, 112.0]]), rtol=0, atol=2.0)
