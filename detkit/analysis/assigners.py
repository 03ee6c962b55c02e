"""What several assigners pick on one image, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from detkit.dense import DenseDetector
from detkit.visualization.assignment import assignment_pictures

__all__ = ["compare_assigners"]


def compare_assigners(models: Mapping[str, DenseDetector], batched_input: dict[str, Any], *, channels: str = "BGR") -> Figure:
    """Pictures of the positives of one image, one row per assigner: colored by object (left) and by level (right).

    Args:
        models: by the name in the picture. An assigner that reads predictions is given this model's.
        batched_input: as for training, see :func:`detkit.visualization.assignment_pictures`.
        channels: of the image.
    """
    figure = Figure(figsize=(11, 4.4 * len(models)), layout="constrained")
    for row, (name, model) in zip(figure.subplots(len(models), 2, squeeze=False), models.items(), strict=True):
        (picture,) = assignment_pictures(model, [batched_input], channels=channels)
        levels = ", ".join(f"{level} {count}" for level, count in zip(picture.level_names, picture.per_level, strict=True) if count)
        counts = picture.per_object
        each = f"{min(counts)} to {max(counts)} for each of {len(counts)} objects" if counts else "no objects"
        for axes, image, title in zip(row, (picture.by_object, picture.by_level), (f"{name}: {each}", levels or "none"), strict=True):
            axes.imshow(image)
            axes.set_title(title, fontsize=10)
            axes.axis("off")
    return figure
