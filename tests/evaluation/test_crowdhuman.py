"""CrowdHuman's figures: by hand, on crowds whose answer is known, and against slow loops."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detkit.config import get_cfg
from detkit.data import register_crowdhuman
from detkit.evaluation import (
    DETECTIONS_FILE,
    CrowdHumanEvaluator,
    CrowdScene,
    build_evaluator,
    crowd_metrics,
    read_detections,
    read_ground_truth,
)

SIZE = (200, 300)  # height, width
A, B, REGION = [0, 0, 40, 80], [100, 0, 140, 80], [200, 100, 300, 200]


def scene(persons, boxes, scores, regions=(), size=SIZE) -> CrowdScene:
    arrays = (np.array(b, dtype=float).reshape(-1, 4) for b in (persons, regions, boxes))
    return CrowdScene(size, *arrays, np.array(scores, dtype=float))


# by hand ----------------------------------------------------------------------------------------------------------------------------------


def test_one_image_by_hand():
    inside = [210, 110, 230, 150]
    metrics = crowd_metrics([scene([A, B], [A, [150, 100, 180, 190], B, inside], [0.9, 0.8, 0.7, 0.6], [REGION])])
    # found, false, found; the fourth lies in the region. Recall .5 .5 1, precision 1 1/2 2/3, by trapezoids from the first point on
    assert metrics.ap == pytest.approx(0.5 * (1 / 2 + 2 / 3) / 2)
    assert metrics.recall == 1
    assert metrics.mmr == pytest.approx(0.5)  # one false positive per image is reached when one of two persons is missed
    assert (metrics.ji, metrics.ji_threshold) == (pytest.approx(2 / 3), 0.0)  # 2 matched of 3 counted detections and 2 persons


def test_the_best_threshold_counts_for_the_jaccard_index():
    false = [[150, 100, 180, 190], [150, 100, 160, 190], [250, 10, 260, 20]]
    metrics = crowd_metrics([scene([A, B], [A, B, *false], [0.9, 0.85, 0.5, 0.45, 0.25])])
    assert (metrics.ji, metrics.ji_threshold) == (1.0, 0.5)  # a score equal to the threshold falls


def test_miss_rate_is_averaged_over_nine_points():
    # 10 images of one person. Every false positive is 0.1 per image; half of the persons are found before the first, one between, four last
    false = [150, 100, 180, 190]
    scores = [0.99] * 5 + [0.80] + [0.1] * 4
    scenes = [scene([A], [A], [score]) for score in scores]
    scenes[0] = scene([A], [A, false], [0.99, 0.9])
    scenes[1] = scene([A], [A, false], [0.99, 0.7])
    metrics = crowd_metrics(scenes)
    # fppi 0.1 is reached at miss rate 0.5 (five references up to 0.1), 0.1778 at 0.4 with the second; 0.3162 to 1 never: the last, 0
    assert metrics.mmr == 0
    last = crowd_metrics([*scenes, *[scene([A], [], []) for _ in range(10)]])
    # 20 images: 0.05 per false positive: miss .75 at .01-.0316, then .7 at .0562 and .1 (second false positive), the last .5 four times
    expected = math.exp((3 * math.log(0.75) + 2 * math.log(0.7) + 4 * math.log(0.5)) / 9)
    assert last.mmr == pytest.approx(expected)


def test_each_person_is_found_once_and_by_the_best_overlap():
    near = [0, 0, 40, 70]
    twice = crowd_metrics([scene([A], [A, near], [0.9, 0.8])])
    assert twice.recall == 1 and twice.ji == 1.0  # above .8 the second is gone
    # the first detection takes the nearer of two persons, though the second overlaps only that one
    left, right = [0, 0, 40, 80], [0, 30, 40, 110]
    both = crowd_metrics([scene([left, right], [[0, 14, 40, 94], left], [0.95, 0.92])])
    assert both.recall == 0.5  # Caltech's matching is not undone
    assert both.ji == 1.0  # maximum matching is


def test_a_region_takes_any_number_of_detections_by_their_own_area():
    small, half, outside = [210, 110, 220, 120], [150, 110, 250, 120], [140, 110, 230, 120]
    metrics = crowd_metrics([scene([A], [A, small, small, half, outside], [0.9, 0.8, 0.8, 0.7, 0.6], [REGION])])
    # exactly half and less than half are false positives
    assert metrics.ap == 0  # the single person is found first: there is no width of recall
    assert metrics.ji == 1.0 and metrics.mmr == 0
    found_late = crowd_metrics([scene([A], [small, half, A], [0.9, 0.7, 0.6], [REGION])])
    assert found_late.mmr == 1 and found_late.ap == pytest.approx((0 + 1 / 2) / 2)  # one false positive per image comes first


def test_a_person_is_preferred_to_a_region():
    metrics = crowd_metrics([scene([A, [210, 110, 240, 190]], [[210, 110, 240, 190]], [0.9], [REGION])])
    assert metrics.recall == 0.5
    # the unmatched person A counts, the one in the region is matched
    assert metrics.ji == pytest.approx(0.5)


def test_unmatched_persons_in_regions_do_not_count_for_the_jaccard_index():
    metrics = crowd_metrics([scene([A, [210, 110, 240, 190]], [A], [0.9], [REGION])])
    assert metrics.recall == 0.5 and metrics.ji == 1.0


def test_boxes_end_at_the_image():
    body = [-120, 150, 60, 900]
    metrics = crowd_metrics([scene([body, A], [[0, 150, 60, 200], A], [0.9, 0.8])])
    assert metrics.recall == 1 and metrics.ji == 1


def test_a_person_outside_the_image_is_missed():
    assert crowd_metrics([scene([A, [400, 10, 450, 90], [-90, 10, -40, 90]], [A], [0.9])]).recall == pytest.approx(1 / 3)


def test_nothing_found_and_nothing_to_find():
    nothing = crowd_metrics([scene([A], [], [])])
    assert (nothing.ap, nothing.mmr, nothing.recall, nothing.ji) == (0, 1, 0, 0)
    assert math.isnan(crowd_metrics([scene([], [A], [0.9])]).ap)
    # an image without persons adds false positives, and to the Jaccard index only with detections
    assert crowd_metrics([scene([A], [A], [0.9]), scene([], [], [])]).ji == 1.0
    assert crowd_metrics([scene([A], [A], [0.9]), scene([], [B], [0.95])]).ji == 0.5


# crowds whose answer is known -------------------------------------------------------------------------------------------------------------


def row_of_people(count: int, *, step: float = 12.0) -> np.ndarray:
    """People of 40 x 100 pixels one behind the other; neighbors overlap with IoU (40 - step) / (40 + step)."""
    left = np.arange(count) * step
    return np.stack([left, np.zeros(count), left + 40, np.full(count, 100.0)], axis=1)


def test_a_perfect_detector_in_dense_crowds():
    crowds = [scene(row_of_people(n), row_of_people(n), np.linspace(0.95, 0.91, n), size=(100, 1000)) for n in (5, 20, 40)]
    metrics = crowd_metrics(crowds)
    assert (metrics.recall, metrics.mmr, metrics.ji) == (1, 0, 1)
    assert metrics.ap == pytest.approx(64 / 65)  # the official area begins at the first point


def test_duplicates_cost_precision_and_not_recall():
    people = row_of_people(20, step=40)  # side by side
    metrics = crowd_metrics([scene(people, np.tile(people, (3, 1)), [0.9] * 20 + [0.4] * 40, size=(100, 1000))])
    assert metrics.recall == 1 and metrics.ap == pytest.approx(19 / 20)  # all duplicates come after all persons
    always = crowd_metrics([scene(people, np.tile(people, (3, 1)), [0.95] * 60, size=(100, 1000))])
    assert always.ji == pytest.approx(1 / 3)


def test_a_detector_that_suppresses_every_second_of_a_crowd():
    people = row_of_people(40)
    metrics = crowd_metrics([scene(people, people[::2], [0.95] * 20, size=(100, 1000))])
    assert metrics.recall == metrics.mmr == metrics.ji == 0.5


# against slow loops ---------------------------------------------------------------------------------------------------------------------


def share(box, other, *, union: bool) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (area + (other[2] - other[0]) * (other[3] - other[1]) - overlap if union else area)


def slow_curve(scenes: list[CrowdScene]) -> tuple[float, float, float]:
    """AP, mMR and recall, one detection and one person after the other."""
    events, total = [], sum(len(s.persons) for s in scenes)
    for s in scenes:
        taken = set()
        for i in np.argsort(-s.scores, kind="stable"):
            best, best_iou = None, 0.5
            for j, person in enumerate(s.persons):
                iou = share(s.boxes[i], person, union=True)
                if j not in taken and iou > best_iou:
                    best, best_iou = j, iou
            if best is not None:
                taken.add(best)
                events.append((s.scores[i], True))
            elif not any(share(s.boxes[i], region, union=False) > 0.5 for region in s.ignore_regions):
                events.append((s.scores[i], False))
    events.sort(key=lambda event: -event[0])
    curve, found, false = [], 0, 0
    for _, is_person in events:
        found, false = found + is_person, false + (not is_person)
        curve.append((found / total, found / (found + false), false / len(scenes)))
    if not curve:
        return 0.0, 1.0, 0.0
    ap = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))
    logs = []
    for reference in (0.0100, 0.0178, 0.03160, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.000):
        recall = next((r for r, _, fppi in curve if fppi >= reference), curve[-1][0])
        logs.append(math.log(1 - recall) if recall < 1 else -math.inf)
    return ap, math.exp(sum(logs) / 9), curve[-1][0]


def slow_jaccard_index(scenes: list[CrowdScene], threshold: float) -> float:
    """By augmenting paths, image by image; without ignore regions, for which the matching is not unique."""
    ratios = []
    for s in scenes:
        boxes = s.boxes[s.scores > threshold]
        partner: dict[int, int] = {}

        def augment(i, seen, boxes=boxes, persons=s.persons, partner=partner):
            for j, person in enumerate(persons):
                if j not in seen and share(boxes[i], person, union=True) > 0.5:
                    seen.add(j)
                    if j not in partner or augment(partner[j], seen):
                        partner[j] = i
                        return True
            return False

        matched = sum(augment(i, set()) for i in range(len(boxes)))
        if len(boxes) + len(s.persons):
            ratios.append(matched / (len(boxes) + len(s.persons) - matched))
    return sum(ratios) / len(ratios)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.random((count, 2)) * [60, 40]
    return np.concatenate([corners, corners + 20 + rng.random((count, 2)) * 40], axis=1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 4), regions=st.integers(0, 2))
def test_figures_are_those_of_the_slow_loops(seed, images, regions):
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(images):
        persons = random_boxes(rng, int(rng.integers(1, 6)))
        near = persons[rng.integers(0, len(persons), 8)] + rng.normal(0, 4, (8, 4))
        boxes = np.concatenate([near, random_boxes(rng, 4)]).clip(0, 100)
        scenes.append(scene(persons, boxes, rng.choice([0.05, 0.2, 0.35, 0.5, 0.9], 12), random_boxes(rng, regions), size=(400, 400)))
    metrics = crowd_metrics(scenes)
    np.testing.assert_allclose((metrics.ap, metrics.mmr, metrics.recall), slow_curve(scenes), atol=1e-6)
    if not regions:
        assert metrics.ji == pytest.approx(max(slow_jaccard_index(scenes, i / 10) for i in range(10)))


# Detectron2's interface -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(tmp_path: Path) -> str:
    """A registered crowd of two images, with a region to ignore and a person that the image cuts."""
    lines = []
    for name, boxes in {
        "a,1": [("person", [0, 0, 40, 80]), ("mask", [200, 100, 100, 100])],
        "b,2": [("person", [-20, 10, 60, 300])],
    }.items():
        Image.new("L", (300, 200)).save(tmp_path / f"{name}.jpg")
        lines.append(json.dumps({"ID": name, "gtboxes": [{"tag": tag, "fbox": box, "extra": {}} for tag, box in boxes]}))
    (tmp_path / "crowd.odgt").write_text("\n".join(lines))
    register_crowdhuman("crowd_of_two", tmp_path / "crowd.odgt", tmp_path)
    return "crowd_of_two"


def found(boxes, scores, classes) -> dict[str, Instances]:
    return {"instances": Instances(SIZE, pred_boxes=Boxes(boxes), scores=torch.tensor(scores), pred_classes=torch.tensor(classes))}


def test_the_data_set_chooses_its_evaluator(crowd, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    evaluator = build_evaluator(cfg, crowd)
    assert isinstance(evaluator, CrowdHumanEvaluator)
    inputs = [{"image_id": "a,1"}, {"image_id": "b,2"}]
    boxes = [[[0.0, 0, 40, 80], [210, 110, 250, 190], [0, 0, 40, 80]], [[0.0, 10, 40, 200]]]
    for each, box, scores, classes in zip(inputs, boxes, ([0.9, 0.8, 0.95], [0.7]), ([0, 0, 1], [0]), strict=True):
        evaluator.process([each], [found(box, scores, classes)])
    assert evaluator.evaluate() == {"bbox": {"AP": pytest.approx(50), "mMR": 0, "Recall": 100, "JI": 100}}
    folder = tmp_path / "out" / "inference" / crowd
    detections = read_detections(folder / DETECTIONS_FILE, read_ground_truth(folder / f"{crowd}_coco_format.json"))
    assert [d["bbox"] for d in detections] == [[0, 0, 40, 80], [210, 110, 40, 80], [0, 10, 40, 190]]
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["Recall"] == 0  # images that were not processed


def test_the_real_annotations_as_detections(real_file, tmp_path):
    sample = real_file("crowdhuman/annotation_sample.odgt")
    for text in sample.read_text().splitlines():
        Image.new("L", (2048, 1356)).save(tmp_path / f"{json.loads(text)['ID']}.jpg")
    register_crowdhuman("crowd_sample", sample, tmp_path)
    evaluator = CrowdHumanEvaluator("crowd_sample", output_dir=None)
    for record in DatasetCatalog.get("crowd_sample"):
        boxes = torch.tensor(
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]], dtype=torch.float
        )
        instances = Instances((1356, 2048), pred_boxes=Boxes(boxes), scores=torch.full((len(boxes),), 0.95))
        instances.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
        instances.pred_boxes.clip((1356, 2048))
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    # 41 persons all found; the detections of the two regions count as nothing
    assert results == {"AP": pytest.approx(100 * 40 / 41), "mMR": 0, "Recall": 100, "JI": 100}
