"""What the stages make of the learned proposals (Sparse R-CNN, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.evaluation.evaluator import inference_context
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from torch import Tensor

from detkit.visualization.pictures import DrawnObject, draw_objects

from .detector import SparseRCNN

__all__ = ["side_by_side", "stage_pictures"]

RGBImage = NDArray[np.uint8]


@torch.no_grad()
def stage_pictures(
    model: SparseRCNN, image: RGBImage, *, resize: T.Augmentation, channels: str = "RGB", score_thresh: float = 0.3
) -> list[RGBImage]:
    """The learned proposals on an image, then the boxes of every stage whose best class scores at least ``score_thresh``.

    A proposal keeps its color through all pictures; on the first one those that no later picture shows are white, as in the paper.

    Args:
        model: its mode is left as it is.
        image: (H, W, 3) RGB.
        resize: to the size of the network's input, ``T.ResizeShortestEdge``.
        channels: ``cfg.INPUT.FORMAT``, "RGB" or "BGR".

    Returns:
        one picture more than there are stages.
    """
    resized = resize.get_transform(image).apply_image(image)
    if channels == "BGR":
        resized = resized[:, :, ::-1]
    item = {"image": torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1).copy())}
    with inference_context(model):
        images = model.preprocess_image([item])
        outputs = model.predict(images)
        proposals, _ = model.proposals(outputs.image_sizes)
    to_original = torch.tensor([image.shape[1] / resized.shape[1], image.shape[0] / resized.shape[0]]).repeat(2)
    boxes = [stage.cpu() * to_original for stage in (proposals[0], *outputs.boxes[:, 0])]
    shown = [scores >= score_thresh for scores in _best_scores(model, outputs.logits[:, 0].float().cpu())]
    hues = torch.randperm(len(boxes[0]), generator=torch.Generator().manual_seed(0)) / len(boxes[0])
    colors = [to_hex(colormaps["hsv"](hue)) for hue in hues.tolist()]
    used = torch.stack(shown).any(0)
    first = draw_objects(image, _drawn(boxes[0], ~used, ["#ffffff"] * len(colors)) + _drawn(boxes[0], used, colors))
    return [first, *(draw_objects(image, _drawn(stage, which, colors)) for stage, which in zip(boxes[1:], shown, strict=True))]


def _best_scores(model: SparseRCNN, logits: Tensor) -> Tensor:
    """Probability (S, N) of the best class of each proposal at each stage."""
    if model.postprocessor.activation == "softmax":
        return logits.softmax(-1)[..., :-1].amax(-1)
    return logits.sigmoid().amax(-1)


def _drawn(boxes: Tensor, which: Tensor, colors: Sequence[str]) -> list[DrawnObject]:
    return [DrawnObject(tuple(boxes[i].tolist()), "", colors[i]) for i in which.nonzero().flatten().tolist()]


def side_by_side(pictures: Sequence[RGBImage], *, gap: int = 8) -> RGBImage:
    """Pictures of equal size in one row, with white between them."""
    height = pictures[0].shape[0]
    space = np.full((height, gap, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, space)][:-1], axis=1)
