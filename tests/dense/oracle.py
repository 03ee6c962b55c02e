"""Post-processing as a slow loop over images and levels, to compare with."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import batched_nms

from detkit.dense.postprocess import DensePostprocessor
from detkit.geometry import box_areas
from detkit.structures import Predictions

__all__ = ["detections_of_image"]


def detections_of_image(post: DensePostprocessor, predictions: Predictions, image: int, per_level: list[int], size: tuple[int, int]):
    """The detections of one image; of equal ranks, the pair of location and class that comes first goes first."""
    scores, classes, priors, start = [], [], [], 0
    for level in range(len(per_level)):
        rows = slice(start, start + per_level[level])
        probabilities = predictions.logits[image, rows].sigmoid()
        quality = None if predictions.quality is None else predictions.quality[image, rows].sigmoid()
        level_scores, flat = candidates(post, probabilities, quality)
        scores.append(level_scores)
        classes.append(flat % probabilities.shape[1])
        priors.append(flat // probabilities.shape[1] + start)
        start = rows.stop
    scores, classes, priors = torch.cat(scores), torch.cat(classes), torch.cat(priors)
    boxes = predictions.boxes[image][priors]
    if post.clip:
        height, width = size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]) - post.plus_one)
    if post.drop_empty:
        filled = box_areas(boxes, post.plus_one) > 0
        boxes, scores, classes, priors = boxes[filled], scores[filled], classes[filled], priors[filled]
    grown = boxes + boxes.new_tensor([0.0, 0.0, post.plus_one, post.plus_one])
    if post.nms_thresh is None:
        keep = scores.sort(descending=True, stable=True).indices[: post.max_detections]
    else:
        keep = batched_nms(grown, scores, classes, post.nms_thresh)[: post.max_detections]
    return Instances(size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep], prior=priors[keep])


def candidates(post: DensePostprocessor, probabilities: torch.Tensor, quality: torch.Tensor | None):
    """Final scores and flat (location, class) indices of a level's best candidates."""
    product = probabilities if quality is None else probabilities * quality[:, None]
    scores = {"class": probabilities, "product": product, "sqrt_product": product if quality is None else product.sqrt()}
    scores["score"] = scores[post.score]
    flat = (scores[post.threshold_on] > post.score_thresh).flatten().nonzero().squeeze(1)
    order = scores[post.rank_by].flatten()[flat].sort(descending=True, stable=True).indices
    flat = flat[order[: post.topk_per_level]]
    return scores[post.score].flatten()[flat], flat
