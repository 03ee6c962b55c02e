"""Resizes and mirrors images as Detectron2's transforms say, by torch's kernels for bytes.

Pillow's resizing takes most of the time of a data worker, and numpy's copy of a mirrored image as much as decoding it. What the transforms
do to boxes, masks and points stays theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, VFlipTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FastAugmentations", "Resizing", "transformed_pixels"]

#: who resizes images, as in ``INPUT.RESIZE``
Resizing = Literal["torch", "pillow"]

#: Pillow's filters that torch has, by which both weigh the pixels of an area where they make an image smaller
_FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
#: channels of an image without transparency, by which Pillow weighs colors
_CHANNELS = (1, 3)


class FastAugmentations(T.AugmentationList):
    """Detectron2's list of augmentations, with the pixels by :func:`transformed_pixels`.

    The augmentations, of Detectron2 or others, draw and return the same transforms.

    Args:
        augs: augmentations or transforms.
        resizing: see :func:`transformed_pixels`.
    """

    def __init__(self, augs: Sequence[T.Augmentation | T.Transform], *, resizing: Resizing = "torch") -> None:
        super().__init__(augs)
        self.resizing = resizing

    def __call__(self, aug_input: Any) -> T.TransformList:
        return super().__call__(_FastInput(aug_input, self.resizing))


def transformed_pixels(transform: Any, image: NDArray[Any], *, resizing: Resizing = "torch") -> NDArray[Any]:
    """What ``transform.apply_image`` makes of an image.

    Mirrored images are equal. Resized ones are up to rounding: of images of bytes, hardly a pixel is another, and by one grey level
    (``benchmarks/resized_pixels.py``). Other images, filters and transforms are left to the transform.

    Args:
        transform: one of Detectron2 or fvcore, or a ``TransformList``.
        image: (H, W) or (H, W, C).
        resizing: "pillow": images are resized by the transform, which asks Pillow.

    Returns:
        a resized or mirrored image lies in memory channel by channel, so that ``transpose(2, 0, 1)`` is contiguous.
    """
    if isinstance(transform, T.TransformList):
        for each in transform.transforms:
            image = transformed_pixels(each, image, resizing=resizing)
        return image
    # exactly these: a class derived from one may do something else to the pixels
    if type(transform) is T.ResizeTransform and resizing == "torch":
        return _resized(transform, image)
    if type(transform) in (HFlipTransform, VFlipTransform) and image.dtype == np.uint8 and image.ndim in (2, 3):
        axis = -1 if type(transform) is HFlipTransform else -2
        return _on_planes(image, lambda planes: planes.flip(axis))
    return transform.apply_image(image)


def _resized(transform: T.ResizeTransform, image: NDArray[Any]) -> NDArray[Any]:
    mode, size = _FILTERS.get(transform.interp), (transform.new_h, transform.new_w)
    known = image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in _CHANNELS))
    # of one row or column torch 2.14 mistakes the layout
    if mode is None or not known or image.shape[:2] != (transform.h, transform.w) or min(*size, *image.shape[:2]) < 2:
        return transform.apply_image(image)
    return _on_planes(image, lambda planes: F.interpolate(planes[None], size, mode=mode, antialias=True)[0])


def _on_planes(image: NDArray[Any], change: Callable[[Tensor], Tensor]) -> NDArray[Any]:
    """An image after a change to its planes (C, H, W). Channels in reverse order, as BGR from a file, are turned behind it."""
    if image.ndim == 2:
        return _on_planes(image[..., None], change)[..., 0]
    backwards = image.strides[2] < 0
    image = image[..., ::-1] if backwards else image
    packed = image.flags.c_contiguous or image.transpose(2, 0, 1).flags.c_contiguous
    if not packed or not image.flags.writeable:  # torch takes no negative strides, and warns of what cannot be written to
        image = np.array(image, order="C")
    changed = change(torch.from_numpy(image).permute(2, 0, 1))
    return (changed.flip(0) if backwards else changed).contiguous().permute(1, 2, 0).numpy()


class _FastInput:
    """An input of augmentations, whose image is changed by :func:`transformed_pixels`."""

    def __init__(self, given: Any, resizing: Resizing) -> None:
        self._given, self._resizing = given, resizing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)

    def transform(self, transform: Any) -> None:
        self._given.transform(_FastTransform(transform, self._resizing))


class _FastTransform:
    """A transform but for what it does to the image."""

    def __init__(self, given: Any, resizing: Resizing) -> None:
        self._given, self._resizing = given, resizing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)

    def apply_image(self, image: NDArray[Any]) -> NDArray[Any]:
        return transformed_pixels(self._given, image, resizing=self._resizing)
