"""Locations, anchors, box arithmetic and box codings."""

from .box_coding import BoxCoder, DeltaBoxCoder, PointBoxCoder
from .boxes import box_areas, box_centers, box_sizes, boxes_to_ltrb, centerness_of, elementwise_iou, ltrb_to_boxes
from .grid import ChosenPriors, Grid, Priors, computed_once, square_anchors
from .polygons import fill_polygons

__all__ = [
    "BoxCoder",
    "ChosenPriors",
    "DeltaBoxCoder",
    "PointBoxCoder",
    "Grid",
    "Priors",
    "box_areas",
    "box_centers",
    "box_sizes",
    "boxes_to_ltrb",
    "centerness_of",
    "computed_once",
    "elementwise_iou",
    "fill_polygons",
    "ltrb_to_boxes",
    "square_anchors",
]
