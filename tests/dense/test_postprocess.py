import itertools

import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit.dense.postprocess import DensePostprocessor
from detkit.layers import gather_rows
from detkit.structures import DenseOutputs, Predictions
from tests.toys.detectors import tiny_cfg

from .oracle import detections_of_image


def logit(p):
    return torch.logit(torch.tensor(p, dtype=torch.float32))


def predictions(class_probability, quality=None, boxes=None):
    """One image; ``class_probability`` (P, K)."""
    logits = logit(class_probability)[None]
    count = logits.shape[1]
    if boxes is None:  # far apart, so that NMS has nothing to do
        corner = torch.arange(count)[:, None] * 30.0
        boxes = torch.cat([corner, torch.zeros(count, 1), corner + 20, torch.full((count, 1), 20.0)], dim=1)
    return Predictions(logits, torch.as_tensor(boxes)[None], None if quality is None else logit(quality)[None])


def detect(p, per_level=None, image_size=(100, 1000), fields=None, **changed):
    sizes = torch.tensor([image_size], dtype=torch.float32)
    found = DensePostprocessor(**changed)(p, priors_per_level=per_level or [p.logits.shape[1]], image_sizes=sizes, fields=fields)
    return found.to_instances([image_size])[0]


@pytest.mark.parametrize("score,expected", [("sqrt_product", 0.2**0.5), ("product", 0.2), ("class", 0.4)])
def test_final_score(score, expected):
    result = detect(predictions([[0.4, 0.01]], [0.5]), score=score)
    assert_close(result.scores, torch.tensor([expected]))
    assert result.pred_classes.tolist() == [0]


@pytest.mark.parametrize("threshold_on,survivors", [("class", 2), ("product", 1), ("score", 2)])
def test_threshold_on(threshold_on, survivors):
    p = predictions([[0.3, 0.01], [0.3, 0.01]], [0.9, 0.3])
    assert len(detect(p, threshold_on=threshold_on, score_thresh=0.1)) == survivors


def test_threshold_is_strict():
    assert len(detect(predictions([[0.5]]), score_thresh=0.5)) == 0


@pytest.mark.parametrize("rank_by,kept", [("product", 1), ("class", 0)])
def test_rank_by_decides_who_stays(rank_by, kept):
    p = predictions([[0.6], [0.5]], [0.2, 0.9])
    assert detect(p, rank_by=rank_by, topk_per_level=1).pred_boxes.tensor[0, 0] == 30.0 * kept


def test_top_k_is_per_level():
    p = predictions([[0.9], [0.8], [0.3], [0.2]])
    assert_close(detect(p, per_level=[2, 2], topk_per_level=1).scores, torch.tensor([0.9, 0.3]))


def test_nms_per_class_and_best_first():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    p = predictions([[0.5, 0.01], [0.7, 0.01], [0.01, 0.6]], boxes=boxes)
    result = detect(p)
    assert_close(result.scores, torch.tensor([0.7, 0.6]))
    assert result.pred_classes.tolist() == [0, 1]
    assert_close(detect(p, max_detections=1).scores, torch.tensor([0.7]))


def test_without_suppression_duplicates_stay_best_first():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    p = predictions([[0.5, 0.01], [0.7, 0.01], [0.01, 0.6]], boxes=boxes)
    result = detect(p, nms_thresh=None)
    assert_close(result.scores, torch.tensor([0.7, 0.6, 0.5]))
    assert result.pred_classes.tolist() == [0, 1, 0]
    assert_close(detect(p, nms_thresh=None, max_detections=2).scores, torch.tensor([0.7, 0.6]))


def test_plus_one_changes_iou_and_border():
    # IoU 7/12 = .583 without, 8*11 / (8*11 + 5*11) = .615 with one more pixel per side
    boxes = torch.tensor([[0.0, 0, 9.5, 10], [2.5, 0, 12, 10]])
    p = predictions([[0.9], [0.8]], boxes=boxes)
    assert len(detect(p)) == 2
    assert len(detect(p, plus_one=1.0)) == 1
    outside = predictions([[0.9]], boxes=torch.tensor([[-5.0, -5, 2000, 2000]]))
    assert detect(outside, plus_one=1.0).pred_boxes.tensor.tolist() == [[0, 0, 999, 99]]
    assert detect(outside).pred_boxes.tensor.tolist() == [[0, 0, 1000, 100]]
    assert detect(outside, clip=False).pred_boxes.tensor.tolist() == [[-5, -5, 2000, 2000]]


def test_nothing_above_the_threshold():
    assert len(detect(predictions([[0.01, 0.02]]))) == 0


def test_fields_travel_with_their_detection():
    p = predictions([[0.3], [0.9], [0.01]])
    result = detect(p, fields={"contours": torch.arange(6.0).view(1, 3, 2)})
    assert result.contours.tolist() == [[2, 3], [0, 1]]


def test_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="rank_by must be one of product, class, location, not 'area'"):
        DensePostprocessor(rank_by="area")


SIZES = [(90, 160), (120, 100)]
PER_LEVEL = [300, 80, 12]


def random_predictions(num_classes, *, ties, batch=2):
    """Clusters of boxes; with ``ties`` of whole coordinates and probabilities 0, 1/2 and 1, so that many ranks are exactly equal."""
    torch.manual_seed(num_classes)
    count = sum(PER_LEVEL)
    middle = torch.rand(batch, count, 2)[:, torch.arange(count) // 6 * 6] * 150
    corner = middle + torch.randn(batch, count, 2) * 4
    boxes = torch.cat([corner - 20, corner + torch.rand(batch, count, 2) * 30 - 2], dim=-1)
    logits, quality = torch.randn(batch, count, num_classes) * 2 - 2, torch.randn(batch, count)
    if ties:
        exact = torch.tensor([-torch.inf, 0.0, torch.inf])
        boxes, logits, quality = boxes.round(), exact[(logits + 1).clamp(0, 2).long()], exact[(quality + 1).clamp(0, 2).long()]
    quality[:, :5] = -torch.inf  # a center-ness of 0
    return Predictions(logits, boxes, quality)


@pytest.mark.parametrize(("topk", "nms_thresh"), [(20, 0.6), (1000, 0.6), (20, None)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_classes", [1, 5])
def test_equals_a_loop_over_images_and_levels(num_classes, ties, topk, nms_thresh):
    p, sizes = random_predictions(num_classes, ties=ties), torch.tensor(SIZES, dtype=torch.float32)
    names = ("score", "threshold_on", "rank_by", "clip", "drop_empty", "plus_one")
    scores = ("sqrt_product", "product", "class")
    for values in itertools.product(scores, ("class", "product", "score"), ("product", "class"), (True, False), (True, False), (0.0, 1.0)):
        options = dict(zip(names, values, strict=True)) | {"nms_thresh": nms_thresh}
        post = DensePostprocessor(topk_per_level=topk, score_thresh=0.1, max_detections=60, **options)
        fields = {"prior": torch.arange(sum(PER_LEVEL)).expand(2, -1)}
        found = post(p, priors_per_level=PER_LEVEL, image_sizes=sizes, fields=fields).to_instances(SIZES)
        for image, size in enumerate(SIZES):
            expected = detections_of_image(post, p, image, PER_LEVEL, size)
            assert len(expected) > 4
            assert_close(found[image].pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0)
            for name in ("prior", "pred_classes", "scores"):
                assert_close(found[image].get(name), expected.get(name))


def test_padding_says_what_it_is():
    sizes = torch.tensor([[100.0, 1000.0]])
    found = DensePostprocessor()(predictions([[0.9], [0.01], [0.3]]), priors_per_level=[3], image_sizes=sizes)
    assert found.counts.tolist() == [2]
    assert found.classes.tolist() == [[0, 0, -1]]
    assert found.scores[0, 2] == 0 and found.boxes[0, 2].tolist() == [0, 0, 0, 0]


def test_only_candidates_are_decoded():
    p, decoded = random_predictions(5, ties=False), []

    def boxes_of(index):
        decoded.append(index.shape)
        return gather_rows(p.boxes, index)

    post = DensePostprocessor(topk_per_level=20, score_thresh=0.3, max_detections=30)
    sizes = torch.tensor(SIZES, dtype=torch.float32)
    levels = p.logits.split(PER_LEVEL, 1), p.quality.split(PER_LEVEL, 1)
    found = post.from_levels(*levels, boxes_of=boxes_of, image_sizes=sizes)
    assert decoded == [(2, 60)]
    expected = post(p, priors_per_level=PER_LEVEL, image_sizes=sizes)
    assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores) and found.counts.equal(expected.counts)


@pytest.mark.parametrize("method", ["FCOS", "ATSS", "DW"])
def test_detectors_give_what_their_decoded_predictions_give(method):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(method)).eval()
    model.postprocessor.score_thresh = 0.0
    shapes = [(12, 16), (6, 8), (3, 4)]
    raw = [[torch.randn(2, channels, *shape) for shape in shapes] for channels in (3, 4, 1)]
    outputs, sizes = DenseOutputs(*raw), torch.tensor([[90.0, 120.0], [96.0, 128.0]])
    with torch.no_grad():
        found = model.detections(outputs, sizes)
        decoded, priors = model.pipeline.decode(outputs)
        expected = model.postprocessor(decoded, priors_per_level=priors.per_level, image_sizes=sizes)
    assert found.counts.tolist() == [100, 100]
    assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores) and found.classes.equal(expected.classes)
