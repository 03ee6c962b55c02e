"""A detector that runs on an image at several sizes, also mirrored, and merges the detections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from detkit.geometry import box_areas

from .fields import Averaged, Derived, FieldRule, Followed, mirror_boxes, standard_fields
from .merging import MergeRule, merge_per_class

__all__ = ["AREA_UNITS", "MultiScaleDetector", "View"]

#: whose pixels areas are measured in: the original image's, or those of the version that the network sees
AREA_UNITS = ("original", "input")
_CORE_FIELDS = ("pred_boxes", "scores", "pred_classes")


@dataclass(frozen=True)
class View:
    """The detections on one version of an image.

    Attributes:
        scale: which of the sizes.
        mirrored: whether the version was mirrored. The detections are those of the image as it is.
        detections: in pixels of the original image.
        input_size: (height, width) of the version.
    """

    scale: int
    mirrored: bool
    detections: Instances
    input_size: tuple[int, int]

    @property
    def zoom(self) -> float:
        """Pixels of the version per pixel of the original image, the geometric mean of both directions."""
        return math.sqrt(math.prod(self.input_size) / math.prod(self.detections.image_size))


class MultiScaleDetector(nn.Module):
    """Multi-scale testing of any Detectron2 model, with the same interface as the model in evaluation.

    The model runs as it is, with its own threshold, NMS and number of detections, on each version of the image; both versions of a scale
    form one batch. The images should come in full size, so that none is enlarged from a smaller copy.

    Args:
        model: maps Detectron2's dicts (``image``, ``height``, ``width``) to ``{"instances": Instances}`` in pixels of the original image.
        min_sizes: the shorter sides of the versions, in pixels.
        max_size: of the longer sides.
        flip: run on every version mirrored too.
        area_ranges: per entry of ``min_sizes`` the least and the greatest square root of a box's area, both inclusive, that is kept;
            empty: all boxes are.
        area_unit: whose pixels these are, one of ``AREA_UNITS``.
        merge_rule: how the detections become one set.
        max_detections: of an image, after merging.
        fields: how further fields of the detections are merged, by name.

    Raises:
        ValueError: there is no size, not one range per size, or an unknown unit.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        min_sizes: Sequence[int],
        max_size: int,
        merge_rule: MergeRule,
        flip: bool = True,
        area_ranges: Sequence[tuple[float, float]] = (),
        area_unit: str = "original",
        max_detections: int = 100,
        fields: Mapping[str, FieldRule] | None = None,
    ) -> None:
        super().__init__()
        if not min_sizes or (area_ranges and len(area_ranges) != len(min_sizes)):
            raise ValueError(
                f"There are {len(min_sizes)} sizes and {len(area_ranges)} ranges of areas: one range per size, or none at all."
            )
        if area_unit not in AREA_UNITS:
            raise ValueError(f"The unit of areas is '{area_unit}'; it is one of {', '.join(AREA_UNITS)}.")
        self.model = model
        self.merge_rule = merge_rule
        self.area_ranges = tuple(area_ranges) or ((0.0, float("inf")),) * len(min_sizes)
        self.area_unit = area_unit
        self.max_detections = max_detections
        self.fields = standard_fields() if fields is None else dict(fields)
        # one mapper per size, so that only the images of one size are held at a time
        self._mappers = [DatasetMapperTTA(min_sizes=[size], max_size=max_size, flip=flip) for size in min_sizes]
        self.train(model.training)

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """The merged detections of every image, best first. Images are processed one by one."""
        return [{"instances": self.merge(self.views(inputs))} for inputs in batched_inputs]

    @torch.no_grad()
    def views(self, inputs: dict[str, Any]) -> Iterator[View]:
        """The detections at every size, before the ranges of areas are applied: of the version as it is, then of the mirrored one."""
        height, width = inputs["image"].shape[1:]
        for scale, mapper in enumerate(self._mappers):
            versions = mapper({"height": height, "width": width, **inputs})
            mirrored = [_is_mirrored(version.pop("transforms")) for version in versions]
            sizes = [tuple(version["image"].shape[1:]) for version in versions]
            for flag, size, output in zip(mirrored, sizes, self.model(versions), strict=True):
                yield View(scale, flag, self._as_tensors(output["instances"], mirrored=flag), size)

    def merge(self, views: Iterable[View]) -> Instances:
        """One set of detections from the views of an image."""
        found = Instances.cat([self._in_area_range(view) for view in views])
        merged = merge_per_class(found.pred_boxes, found.scores, found.pred_classes, self.merge_rule).best(self.max_detections)
        result = Instances(
            found.image_size,
            pred_boxes=Boxes(merged.average(found.pred_boxes)),
            scores=merged.scores,
            pred_classes=found.pred_classes[merged.source],
        )
        for name, rule, values in self._carried(found):
            result.set(name, rule.merge(values, merged))
        for name, derived in self.fields.items():
            if isinstance(derived, Derived):
                result.set(name, derived.compute(result))
        return result

    def _as_tensors(self, detections: Instances, *, mirrored: bool) -> Instances:
        """The detections turned back, with boxes as a plain tensor and without what is derived in the end."""
        width = detections.image_size[1]
        boxes = detections.pred_boxes.tensor
        result = Instances(
            detections.image_size,
            pred_boxes=mirror_boxes(boxes, width) if mirrored else boxes,
            scores=detections.scores,
            pred_classes=detections.pred_classes,
        )
        for name, rule, values in self._carried(detections):
            result.set(name, rule.mirror(values, width) if mirrored else values)
        return result

    def _carried(self, detections: Instances) -> Iterator[tuple[str, Averaged | Followed, Tensor]]:
        """What the detections carry beside box, score and class, but for what is derived in the end."""
        for name in sorted(set(detections.get_fields()) - set(_CORE_FIELDS)):
            if name not in self.fields:
                raise ValueError(
                    f"Multi-scale testing does not know how to merge the field '{name}' of the detections: give the model an entry for it "
                    "in tta_fields (docs/multi-scale-testing.md). Keypoints need keypoint_names and keypoint_flip_map in the metadata of "
                    "the dataset."
                )
            rule = self.fields[name]
            if not isinstance(rule, Derived):
                yield name, rule, detections.get(name)

    def _in_area_range(self, view: View) -> Instances:
        least, greatest = self.area_ranges[view.scale]
        size = box_areas(view.detections.pred_boxes).sqrt() * (view.zoom if self.area_unit == "input" else 1.0)
        return view.detections[(size >= least) & (size <= greatest)]


def _is_mirrored(transforms: Any) -> bool:
    return any(isinstance(transform, HFlipTransform) for transform in transforms.transforms)
