"""Detections of one image that know the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from detkit.data import mask_to_polygons
from detkit.visualization import DrawnObject, draw_objects

from .images import ImageLike, read_bgr

__all__ = ["NamedInstances"]

#: what objects are drawn in, class by class
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#e65fbc")
#: longer side in pixels that a drawing has at least, so that names can be read
LEAST_SIDE = 520


class NamedInstances(Instances):
    """Detectron2's ``Instances`` of detections, with the names of their classes, and ways to draw them and to hand them on.

    All that takes ``Instances`` takes them. Parts, as ``instances[instances.scores > 0.5]``, are of this class, too.

    Args:
        instances: on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and what else a model predicts.
        metadata: of Detectron2, with ``thing_classes``, one name per class; where the model gives keypoints, with their names and
            ``keypoint_connection_rules``, as far as they are known; ``category_ids``, where the classes have other numbers in COCO's json.
        image: on which they were found; None: unknown. It is referred to and not copied.
    """

    def __init__(self, instances: Instances, metadata: Metadata, image: ImageLike | None = None) -> None:
        super().__init__(instances.image_size, **instances.get_fields())
        self._metadata = metadata
        self._image = image

    @property
    def class_names(self) -> list[str]:
        """The names of all classes, in their order."""
        return list(self._metadata.thing_classes)

    @property
    def names(self) -> list[str]:
        """The name of the class of every detection."""
        return [self._metadata.thing_classes[index] for index in self.pred_classes.tolist()]

    @property
    def category_ids(self) -> list[int] | None:
        """The numbers of the classes in the json of the dataset that the model was tested on; None: unknown here."""
        ids = self._metadata.get("category_ids")
        return None if ids is None else list(ids)

    def __getitem__(self, item: Any) -> NamedInstances:
        return NamedInstances(super().__getitem__(item), self._metadata, self._image)

    def to(self, *args: Any, **kwargs: Any) -> NamedInstances:
        """All fields on another device or in another type."""
        return NamedInstances(super().to(*args, **kwargs), self._metadata, self._image)

    def __str__(self) -> str:
        height, width = self.image_size
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"{len(self)} detections on {width} x {height} pixels{': ' * bool(found)}{found}; fields: {', '.join(self.get_fields())}"

    __repr__ = __str__

    def draw(self, image: ImageLike | None = None, *, min_score: float = 0.3) -> Image.Image:
        """The image with its detections: boxes, masks, keypoints, names and scores.

        Args:
            image: any kind that a predictor takes; None: the one that they were found on.
            min_score: below which a detection is left out, in [0, 1].

        Raises:
            ValueError: the image is unknown, or has another size.
        """
        return Image.fromarray(self.draw_on(self._pixels(image), min_score=min_score, least_side=LEAST_SIDE))

    def draw_on(self, pixels: np.ndarray, *, min_score: float, least_side: int = 0) -> np.ndarray:
        """What :meth:`draw` gives, from an array (H, W, 3) in the order BGR, as an array (H', W', 3) in the order RGB.

        Args:
            least_side: longer side in pixels that the drawing has at least; smaller images are magnified.
        """
        shown = self[self.scores >= min_score]
        names, scores, classes = shown.names, shown.scores.tolist(), shown.pred_classes.tolist()
        masks = shown.pred_masks.numpy() if shown.has("pred_masks") else None
        points = shown.pred_keypoints.numpy() if shown.has("pred_keypoints") else None
        objects = [
            DrawnObject(
                box=tuple(box),
                label=f"{names[i]} {scores[i]:.2f}",
                color=_COLORS[classes[i] % len(_COLORS)],
                segmentation=None if masks is None else mask_to_polygons(masks[i]),
                keypoints=None if points is None else points[i],
            )
            for i, box in enumerate(shown.pred_boxes.tensor.tolist())
        ]
        size = max(*pixels.shape[:2], least_side)
        return draw_objects(np.ascontiguousarray(pixels[..., ::-1]), objects, metadata=self._metadata, size=size)

    def _pixels(self, image: ImageLike | None) -> np.ndarray:
        image = self._image if image is None else image
        if image is None:
            raise ValueError("These detections do not know their image: name it, draw(image).")
        pixels = read_bgr(image, deep_images="own_range")
        if pixels.shape[:2] != tuple(self.image_size):
            size = "{1} x {0}".format(*self.image_size)
            raise ValueError(f"The detections are of an image of {size} pixels, this one has {pixels.shape[1]} x {pixels.shape[0]}.")
        return pixels

    def to_coco(self, image_id: int = 0, *, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of COCO's result format: ``bbox`` as x, y, width, height; masks as run lengths; keypoints with x, y and score.

        Args:
            image_id: of the image in the json that they are compared with.
            category_ids: of the classes, in their order; None: those of the dataset that the model was tested on, where it is known here,
                else 0, 1, 2, ...
        """
        ids = list(category_ids or self.category_ids or range(len(self.class_names)))
        plain = Instances(self.image_size, **self.get_fields()).to("cpu")
        if plain.has("pred_keypoints"):
            plain.pred_keypoints = plain.pred_keypoints.clone()  # Detectron2 moves them in place
        return [entry | {"category_id": ids[entry["category_id"]]} for entry in instances_to_coco_json(plain, image_id)]

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, with ``class_name`` among their data.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("supervision is not installed: pip install supervision.") from error
        return supervision.Detections(
            xyxy=self.pred_boxes.tensor.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.pred_classes.cpu().numpy(),
            mask=self.pred_masks.cpu().numpy().astype(bool) if self.has("pred_masks") else None,
            data={"class_name": np.array(self.names, dtype=str)},
        )
