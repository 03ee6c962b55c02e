"""`shapes`: an embedded, deterministic dataset of generated pictures with boxes, masks and keypoints."""

from .dataset import (
    SHAPES_CLASSES,
    SHAPES_SETS,
    SHAPES_VERSION,
    ShapesSpec,
    default_shapes_root,
    ensure_shapes,
    shapes_categories,
    shapes_paths,
)

__all__ = [
    "SHAPES_CLASSES",
    "SHAPES_SETS",
    "SHAPES_VERSION",
    "ShapesSpec",
    "default_shapes_root",
    "ensure_shapes",
    "shapes_categories",
    "shapes_paths",
]
