"""From the scores and boxes of every prior to the detections of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from detkit.config.dense import DENSE_TEST_LIMITS
from detkit.geometry import box_areas
from detkit.structures import Predictions

__all__ = ["DensePostprocessor"]


class DensePostprocessor:
    """Threshold, best candidates of every level, NMS per class, best of the image.

    The published codes agree on these steps and differ in the details, which are the arguments. ``product`` means class probability
    times quality; without a quality branch all three scores are the class probability.

    Args:
        score: final score: ``"sqrt_product"`` (tianzhi0549/FCOS, ATSS, AdelaiDet, Detectron2), ``"product"`` (mmdetection, DW) or
            ``"class"``.
        threshold_on: what must exceed ``score_thresh``: ``"class"`` (most), ``"product"`` (AdelaiDet's THRESH_WITH_CTR, DW) or
            ``"score"`` (Detectron2).
        rank_by: what chooses the ``topk_per_level`` (location, class) pairs of a level: ``"product"``, or ``"class"`` (mmdetection).
        score_thresh: in [0, 1].
        topk_per_level: candidates kept per level before NMS.
        nms_thresh: IoU above which the lower-scored of two boxes of a class goes.
        max_detections: kept per image.
        clip: clip boxes to the image before NMS (tianzhi0549/FCOS, ATSS, mmdetection); Detectron2 and AdelaiDet clip at the very end.
        drop_empty: leave out boxes without area before NMS, after clipping (mmdetection's ``min_bbox_size=0``); else they compete with the
            others for ``max_detections``.
        plus_one: legacy inclusive corners: boxes end at ``size - 1``, IoU counts one pixel more per side.
    """

    def __init__(
        self,
        *,
        score: Literal["sqrt_product", "product", "class"] = "sqrt_product",
        threshold_on: Literal["class", "product", "score"] = "class",
        rank_by: Literal["product", "class"] = "product",
        score_thresh: float = 0.05,
        topk_per_level: int = 1000,
        nms_thresh: float = 0.6,
        max_detections: int = 100,
        clip: bool = True,
        drop_empty: bool = False,
        plus_one: float = 0.0,
    ) -> None:
        for name, value in (("score", score), ("threshold_on", threshold_on), ("rank_by", rank_by)):
            allowed = DENSE_TEST_LIMITS[f"TEST.{name.upper()}"]
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not '{value}'.")
        self.score = score
        self.threshold_on = threshold_on
        self.rank_by = rank_by
        self.score_thresh = score_thresh
        self.topk_per_level = topk_per_level
        self.nms_thresh = nms_thresh
        self.max_detections = max_detections
        self.clip = clip
        self.drop_empty = drop_empty
        self.plus_one = plus_one

    def __call__(
        self,
        predictions: Predictions,
        *,
        priors_per_level: Sequence[int],
        image_sizes: Sequence[tuple[int, int]],
        fields: Mapping[str, Tensor] | None = None,
    ) -> list[Instances]:
        """Detections of every image, best first.

        Args:
            predictions: logits, decoded boxes and quality of all priors.
            priors_per_level: how many priors each level has, in order.
            image_sizes: (height, width) of every image without padding.
            fields: anything else per prior, (B, P, ...); the detections carry their rows under the same names.

        Returns:
            per image ``Instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` and the given fields.
        """
        probabilities = predictions.logits.sigmoid()
        quality = None if predictions.quality is None else predictions.quality.sigmoid()
        return [
            self._one_image(
                probabilities[i].split(list(priors_per_level)),
                predictions.boxes[i],
                None if quality is None else quality[i].split(list(priors_per_level)),
                image_size,
                {name: value[i] for name, value in (fields or {}).items()},
            )
            for i, image_size in enumerate(image_sizes)
        ]

    def _one_image(
        self,
        probabilities: Sequence[Tensor],
        boxes: Tensor,
        quality: Sequence[Tensor] | None,
        image_size: tuple[int, int],
        fields: Mapping[str, Tensor],
    ) -> Instances:
        scores, classes, prior_index, start = [], [], [], 0
        for level, level_probabilities in enumerate(probabilities):
            level_scores, flat = self._candidates(level_probabilities, None if quality is None else quality[level])
            num_classes = level_probabilities.shape[1]
            scores.append(level_scores)
            classes.append(flat % num_classes)
            prior_index.append(torch.div(flat, num_classes, rounding_mode="floor") + start)
            start += level_probabilities.shape[0]
        all_scores, all_classes, index = torch.cat(scores), torch.cat(classes), torch.cat(prior_index)
        chosen = self._clip(boxes[index], image_size)
        if self.drop_empty:
            filled = box_areas(chosen, self.plus_one) > 0
            chosen, all_scores, all_classes, index = chosen[filled], all_scores[filled], all_classes[filled], index[filled]
        keep = self._nms(chosen, all_scores, all_classes)
        result = Instances(image_size)
        result.pred_boxes = Boxes(chosen[keep])
        result.scores = all_scores[keep]
        result.pred_classes = all_classes[keep]
        for name, value in fields.items():
            result.set(name, value[index[keep]])
        return result

    def _candidates(self, probabilities: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
        """Final scores (M,) and flat (prior, class) indices (M,) of a level's best candidates."""
        product = probabilities if quality is None else probabilities * quality[:, None]
        score = {"class": probabilities, "product": product}.get(self.score)
        if score is None:
            score = product if quality is None else product.sqrt()
        passing = {"class": probabilities, "product": product, "score": score}[self.threshold_on] > self.score_thresh
        flat = passing.flatten().nonzero().squeeze(1)
        rank = (probabilities if self.rank_by == "class" else product).flatten()[flat]
        best = rank.topk(min(self.topk_per_level, rank.numel())).indices
        flat = flat[best]
        return score.flatten()[flat], flat

    def _clip(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        if not self.clip:
            return boxes
        height, width = image_size
        limit = boxes.new_tensor([width, height, width, height]) - self.plus_one
        return boxes.clamp(min=0).minimum(limit)

    def _nms(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        # one pixel on the far corners makes torchvision's IoU the legacy one
        grown = boxes + boxes.new_tensor([0.0, 0.0, self.plus_one, self.plus_one])
        return batched_nms(grown, scores, classes, self.nms_thresh)[: self.max_detections]
