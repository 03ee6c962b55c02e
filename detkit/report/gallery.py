"""Pairs of pictures of one image: its objects, and what was detected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray
from pycocotools.coco import COCO

from detkit.evaluation import ImageQuality, why_false
from detkit.visualization.pictures import DrawnObject, Picture, draw_objects, encoded, read_rgb
from detkit.visualization.style import CROWD, FALSE, FOUND, HIT, MISSED

__all__ = ["Gallery", "PicturePair", "evenly_spread", "rank_images"]

T = TypeVar("T")


@dataclass(frozen=True)
class PicturePair:
    """Two pictures that belong together, and what is to be seen."""

    title: str
    caption: str
    left: Picture
    right: Picture


@dataclass(frozen=True)
class Gallery:
    """Draws the images of one dataset.

    Args:
        dataset_name: as registered; gives the names of keypoints.
        ground_truth: its annotations.
        files: image file by image id.
        detections: all that were evaluated.
        qualities: by image id, of the same detections.
        fields: what is drawn beside the boxes: "segmentation", "keypoints".
    """

    dataset_name: str
    ground_truth: COCO
    files: Mapping[Any, Path]
    detections: Sequence[dict[str, Any]]
    qualities: Mapping[Any, ImageQuality]
    fields: Collection[str] = ()

    def pair(self, image_id: Any) -> PicturePair:
        """Ground truth (found or missed) beside detections above the score threshold (right or false)."""
        quality = self.qualities[image_id]
        image = read_rgb(self.files[image_id])
        name = self.files[image_id].name
        caption = self._caption(quality)
        return PicturePair(
            title=name,
            caption=caption,
            left=encoded(self._draw(image, self._objects(quality)), f"Ground truth of {name}: {self._contents(image_id)}."),
            right=encoded(self._draw(image, self._predictions(quality)), f"Detections on {name}. {caption}"),
        )

    def _draw(self, image: NDArray[np.uint8], objects: list[DrawnObject]) -> NDArray[np.uint8]:
        return draw_objects(image, objects, metadata=MetadataCatalog.get(self.dataset_name) if self.dataset_name else None)

    def _objects(self, quality: ImageQuality) -> list[DrawnObject]:
        drawn = []
        for annotation in self.ground_truth.imgToAnns[quality.image_id]:
            missed = annotation["id"] in quality.missed
            color = MISSED if missed else FOUND if annotation["id"] in quality.found else CROWD
            drawn.append(self._drawn(annotation, label=self._class_name(annotation), color=color, dashed=missed))
        return drawn

    def _predictions(self, quality: ImageQuality) -> list[DrawnObject]:
        shown = {**dict.fromkeys(quality.ignored, CROWD), **dict.fromkeys(quality.false, FALSE), **dict.fromkeys(quality.hits, HIT)}
        drawn = []
        for number, color in shown.items():
            detection = self.detections[number]
            label = f"{self._class_name(detection)} {detection['score']:.2f}"
            drawn.append(self._drawn(detection, label=label, color=color, dashed=number in quality.false))
        return drawn

    def _drawn(self, item: dict[str, Any], *, label: str, color: str, dashed: bool) -> DrawnObject:
        x, y, width, height = item["bbox"]
        keypoints = item.get("keypoints") if "keypoints" in self.fields else None
        return DrawnObject(
            box=(x, y, x + width, y + height),
            label=label,
            color=color,
            dashed=dashed,
            segmentation=item.get("segmentation") if "segmentation" in self.fields else None,
            keypoints=np.array(keypoints, dtype=np.float64).reshape(-1, 3) if keypoints else None,
        )

    def _caption(self, quality: ImageQuality) -> str:
        """Quality, and the reasons for it."""
        parts = ["Nothing to find, nothing found" if math.isnan(quality.quality) else f"Quality {quality.quality:.2f}"]
        total = len(quality.found) + len(quality.missed)
        if total:
            parts.append(f"{len(quality.found)} of {total} found")
        if quality.hits:
            parts.append(f"mean IoU {sum(quality.hits.values()) / len(quality.hits):.2f}")
        if quality.missed:
            parts.append("missed: " + _counted([self._missed(number) for number in sorted(quality.missed, key=str)]))
        if quality.false:
            parts.append("false: " + _counted([self._mistake(quality.image_id, number) for number in sorted(quality.false)]))
        return " · ".join(parts)

    def _missed(self, annotation_id: Any) -> str:
        annotation = self.ground_truth.anns[annotation_id]
        side = math.sqrt(annotation["area"])
        return f"{self._class_name(annotation)} ({'small' if side < 32 else 'medium' if side < 96 else 'large'})"

    def _mistake(self, image_id: Any, number: int) -> str:
        detection = self.detections[number]
        return f"{self._class_name(detection)} ({why_false(detection, self.ground_truth.imgToAnns[image_id])})"

    def _contents(self, image_id: Any) -> str:
        return _counted([self._class_name(a) for a in self.ground_truth.imgToAnns[image_id]]) or "no objects"

    def _class_name(self, item: dict[str, Any]) -> str:
        return self.ground_truth.cats[item["category_id"]]["name"]


def rank_images(qualities: Mapping[Any, ImageQuality], count: int) -> tuple[list[Any], list[Any]]:
    """Ids of the (best, worst) images, at most ``count`` each and none in both; of equals, those with more objects at stake come first.

    Images without objects and detections are left out.
    """
    ranked = [q for q in qualities.values() if not math.isnan(q.quality)]
    best = sorted(ranked, key=lambda q: (-q.quality, -len(q.hits)))[: min(count, (len(ranked) + 1) // 2)]
    worst = sorted(ranked, key=lambda q: (q.quality, -len(q.missed) - len(q.false)))[: min(count, len(ranked) // 2)]
    best_ids = [q.image_id for q in best]
    return best_ids, [q.image_id for q in worst if q.image_id not in best_ids]


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spread over the sequence; always the same ones."""
    if len(items) <= count:
        return list(items)
    return [items[int((number + 0.5) * len(items) / count)] for number in range(count)]


def _counted(words: Sequence[str], most: int = 4) -> str:
    """Equal words counted, the most frequent first: ``2 × ball, cube``."""
    counts = Counter(words)
    parts = [f"{count} × {word}" if count > 1 else word for word, count in counts.most_common(most)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(most))
    return ", ".join(parts) + (f" and {rest} more" if rest else "")
