"""From the scores and boxes of every prior to the detections of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor

from detkit.config.dense import DENSE_TEST_LIMITS
from detkit.geometry import box_areas
from detkit.host import values_are_at_hand
from detkit.layers import ABSENT, best_indices, gather_rows, nms_mask, nms_mask_by_offsets, voted_boxes
from detkit.structures import Detections, Predictions

__all__ = ["DensePostprocessor"]


class DensePostprocessor:
    """Threshold, best candidates of every level, NMS per class or none, best of the image.

    The published codes agree on these steps and differ in the details, which are the arguments. ``product`` means class probability
    times quality; without a quality branch all three scores are the class probability.

    Args:
        score: final score: ``"sqrt_product"`` (tianzhi0549/FCOS, ATSS, AdelaiDet, Detectron2), ``"product"`` (mmdetection, DW) or
            ``"class"``.
        threshold_on: what must exceed ``score_thresh``: ``"class"`` (most), ``"product"`` (AdelaiDet's THRESH_WITH_CTR, DW) or
            ``"score"`` (Detectron2).
        rank_by: what chooses the ``topk_per_level`` (location, class) pairs of a level: ``"product"``, or ``"class"`` (mmdetection);
            ``"location"`` chooses as many locations by their best final score, and all of their classes (PAA).
        score_thresh: in [0, 1].
        topk_per_level: candidates kept per level before NMS.
        nms_thresh: IoU above which the lower-scored of two boxes of a class goes; None: all stay, for detectors that learn one location
            for each object.
        max_detections: kept per image.
        clip: clip boxes to the image before NMS (tianzhi0549/FCOS, ATSS, mmdetection); Detectron2 and AdelaiDet clip at the very end.
        vote_sigma: detections become the mean of the candidates around them, see :func:`detkit.layers.voted_boxes` (PAA); 0: they stay.
        drop_empty: leave out boxes without area before NMS, after clipping (mmdetection's ``min_bbox_size=0``); else they compete with the
            others for ``max_detections``.
        plus_one: legacy inclusive corners: boxes end at ``size - 1``, IoU counts one pixel more per side.
    """

    def __init__(
        self,
        *,
        score: Literal["sqrt_product", "product", "class"] = "sqrt_product",
        threshold_on: Literal["class", "product", "score"] = "class",
        rank_by: Literal["product", "class", "location"] = "product",
        score_thresh: float = 0.05,
        topk_per_level: int = 1000,
        nms_thresh: float | None = 0.6,
        max_detections: int = 100,
        clip: bool = True,
        drop_empty: bool = False,
        vote_sigma: float = 0.0,
        plus_one: float = 0.0,
    ) -> None:
        for name, value in (("score", score), ("threshold_on", threshold_on), ("rank_by", rank_by)):
            allowed = DENSE_TEST_LIMITS[f"TEST.{name.upper()}"]
            if isinstance(allowed, tuple) and value not in allowed:
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
        self.vote_sigma = vote_sigma
        self.plus_one = plus_one

    def __call__(
        self,
        predictions: Predictions,
        *,
        priors_per_level: Sequence[int],
        image_sizes: Tensor,
        fields: Mapping[str, Tensor] | None = None,
    ) -> Detections:
        """Detections of a batch whose boxes are decoded already, see :meth:`from_levels`.

        Args:
            predictions: logits, decoded boxes and quality of all priors.
            priors_per_level: how many priors each level has, in order.
            image_sizes: (B, 2) height and width of every image without padding.
            fields: anything else per prior, (B, P, ...); the detections carry their rows under the same names.
        """
        sizes = list(priors_per_level)
        quality = None if predictions.quality is None else predictions.quality.split(sizes, dim=1)
        return self.from_levels(
            predictions.logits.split(sizes, dim=1),
            quality,
            boxes_of=partial(gather_rows, predictions.boxes),
            image_sizes=image_sizes,
            fields=fields,
        )

    def from_levels(
        self,
        logits: Iterable[Tensor],
        quality: Iterable[Tensor] | None,
        *,
        boxes_of: Callable[[Tensor], Tensor],
        image_sizes: Tensor,
        fields: Mapping[str, Tensor] | None = None,
    ) -> Detections:
        """Detections of a batch in one shape, best first. Of equal scores, the level, location and class that come first go first.

        No shape that is returned depends on how many candidates there are: those that do not pass the threshold stay as absent ones. Of
        the classes only the best one is looked at, but on priors that can be among the candidates, so that memory does not grow with K.

        Args:
            logits: (B, P_l, K) per level, which may be views of the head's maps.
            quality: (B, P_l) per level, or None.
            boxes_of: decoded boxes (B, M, 4) of the priors (B, M) that are candidates.
            image_sizes: (B, 2) height and width of every image without padding.
            fields: anything else per prior, (B, P, ...); the detections carry their rows under the same names.
        """
        levels, start = [], 0
        for level_logits, level_quality in zip(logits, repeat(None) if quality is None else quality, strict=False):
            scores, classes, index = self._candidates(level_logits, level_quality)
            levels.append((scores, classes, index + start))
            start = start + level_logits.shape[1]
        scores, classes, index = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        boxes = self._clip(boxes_of(index), image_sizes)
        if self.drop_empty:
            scores = torch.where(box_areas(boxes, self.plus_one) > 0, scores, ABSENT)
        return self._best(boxes, scores, classes, {name: (value, index) for name, value in (fields or {}).items()})

    def _candidates(self, logits: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Final scores, classes and priors, all (B, M), of a level's best pairs of prior and class; the scores of absent ones are negative.

        The best pairs lie on the priors whose best class is best, so that only the classes of these priors are ranked one by one.
        """
        num_classes = logits.shape[2]
        prior, rank = self._promising_priors(logits, quality)
        if prior is not None:
            logits, quality = gather_rows(logits, prior), None if quality is None else quality.gather(1, prior)
        rank = torch.where(rank[..., None] < 0, ABSENT, self._rank(logits.float(), quality)).flatten(1)
        pair = best_indices(rank, rank.shape[1] if self.rank_by == "location" else self._enough(rank))
        row = torch.div(pair, num_classes, rounding_mode="floor")
        chosen = logits.flatten(1).gather(1, pair).float()
        scores = self._scores(chosen, None if quality is None else quality.gather(1, row))[self.score]
        scores = torch.where(rank.gather(1, pair) < 0, ABSENT, scores)
        return scores, pair % num_classes, row if prior is None else prior.gather(1, row)

    def _promising_priors(self, logits: Tensor, quality: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The priors (B, M) on which the best pairs lie, None for all of them, and the rank (B, M) of their best class.

        They are in their own order, so that the first of equal pairs is the first of the level.
        """
        num_priors, num_classes = logits.shape[1:]
        rank = self._rank(logits.amax(-1, keepdim=True).float(), quality).squeeze(-1)
        count = self._enough(rank)
        if isinstance(num_priors, int) and (num_classes == 1 or num_priors <= count):
            return None, rank
        prior = best_indices(rank, count).sort(-1).values
        exists = prior < num_priors  # programs of dynamic size make up for missing ones
        prior = prior.clamp(max=num_priors - 1)
        return prior, torch.where(exists, rank.gather(1, prior), ABSENT)

    def _enough(self, rank: Tensor) -> int:
        """How many of the best of the ranks (B, n) to look at: ``topk_per_level``, but where their values are at hand no more than are
        present in an image, or fill the detections."""
        if not values_are_at_hand(rank):
            return self.topk_per_level
        present = int((rank >= 0).sum(-1).amax()) if rank.numel() else 0
        return min(self.topk_per_level, max(present, self.max_detections))

    def _rank(self, logits: Tensor, quality: Tensor | None) -> Tensor:
        """What the candidates (B, M, K) of priors of this quality (B, M) are ranked by; negative for those below the threshold."""
        scores = self._scores(logits, None if quality is None else quality[..., None].float())
        return torch.where(scores[self.threshold_on] > self.score_thresh, scores[self.rank_by], ABSENT)

    def _scores(self, logits: Tensor, quality: Tensor | None) -> dict[str, Tensor]:
        """The scores by the names they have in the arguments, of logits and quality of shapes that fit each other."""
        probability = logits.sigmoid()
        product = probability if quality is None else probability * quality.sigmoid()
        root = product if quality is None else product.sqrt()
        scores = {"class": probability, "product": product, "sqrt_product": root}
        return scores | dict.fromkeys(("score", "location"), scores[self.score])

    def _clip(self, boxes: Tensor, image_sizes: Tensor) -> Tensor:
        if not self.clip:
            return boxes
        limits = image_sizes.to(boxes).flip(-1).repeat(1, 2)[:, None] - self.plus_one  # width, height, width, height
        return boxes.clamp(min=0).minimum(limits)

    def _suppress(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        """The scores (B, M), those of suppressed boxes absent."""
        if self.nms_thresh is None:
            return scores
        # one pixel on the far corners makes torchvision's IoU the legacy one
        far = torch.cat([boxes[..., :2], boxes[..., 2:] + self.plus_one], dim=-1) if self.plus_one else boxes
        suppress = nms_mask_by_offsets if torch.jit.is_tracing() else nms_mask
        return torch.where(suppress(far, scores, classes, self.nms_thresh, self.max_detections), scores, ABSENT)

    def _best(self, boxes: Tensor, scores: Tensor, classes: Tensor, fields: Mapping[str, tuple[Tensor, Tensor]]) -> Detections:
        """The best of what suppression keeps; ``fields`` are values per prior and the priors of the candidates."""
        kept = self._suppress(boxes, scores, classes)
        best = best_indices(kept, self.max_detections)
        kept = kept.gather(1, best)
        there = kept >= 0
        found, found_classes = gather_rows(boxes, best), torch.where(there, classes.gather(1, best), -1)
        if self.vote_sigma:
            found = voted_boxes(found, found_classes, boxes, scores, classes, self.vote_sigma)
        return Detections(
            boxes=torch.where(there[..., None], found, 0),
            scores=torch.where(there, kept, 0),
            classes=found_classes,
            counts=there.sum(1),
            fields={name: gather_rows(value, index.gather(1, best)) for name, (value, index) in fields.items()},
        )
