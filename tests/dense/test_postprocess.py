import pytest
import torch
from torch.testing import assert_close

from detkit.dense.postprocess import DensePostprocessor
from detkit.structures import Predictions


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
    post = DensePostprocessor(**changed)
    return post(p, priors_per_level=per_level or [p.logits.shape[1]], image_sizes=[image_size], fields=fields)[0]


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
    with pytest.raises(ValueError, match="rank_by must be one of product, class, not 'area'"):
        DensePostprocessor(rank_by="area")
