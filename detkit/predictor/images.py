"""Whatever a user holds as an image, as an array in the order BGR."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detkit.data import DataError, DeepImages, ImageReadError, pixels_of, read_image

__all__ = ["BGRImage", "ImageLike", "read_bgr"]

BGRImage = NDArray[np.uint8]
#: a path; a BGR image (H, W, 3) or a gray one (H, W) of uint8, as ``cv2.imread`` gives them; a PIL image; or an RGB tensor (3, H, W), as
#: torchvision gives them, of uint8 or of floating-point numbers from 0 to 1
ImageLike = str | os.PathLike[str] | BGRImage | Image.Image | Tensor


def read_bgr(image: ImageLike, *, deep_images: DeepImages = "error") -> BGRImage:
    """An image of any kind as an array (H, W, 3) of uint8 in the order BGR. An array of that kind is returned itself.

    Args:
        deep_images: what is done with files of more than 8 bits per channel, see ``INPUT.DEEP_IMAGES``.

    Raises:
        DataError: a file that cannot be read.
        TypeError, ValueError: an array or a tensor of another shape, type or range, or something that is no image.
    """
    try:
        if isinstance(image, Image.Image):
            return pixels_of(image, "BGR", deep_images=deep_images)  # type: ignore[return-value]
        if isinstance(image, (str, os.PathLike)):
            return read_image(image, "BGR", deep_images=deep_images)  # type: ignore[return-value]
    except ImageReadError as error:
        name = "of Pillow" if isinstance(image, Image.Image) else str(image)
        raise DataError(f"The image {name} cannot be read: {error}") from error
    if isinstance(image, Tensor):
        return _of_tensor(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"An image is a path, an array, a tensor or a PIL image, not a {type(image).__name__}.")
    if image.dtype != np.uint8:
        raise ValueError(f"The image is an array of {image.dtype}. It has to be of uint8, from 0 to 255.")
    if image.ndim == 2 and 0 not in image.shape:
        return np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"The image has the shape {image.shape}. It has to be (H, W, 3) in the order BGR, or (H, W) in gray.")
    return image


def _of_tensor(image: Tensor) -> BGRImage:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"The image is a tensor of the shape {tuple(image.shape)}. It has to be (3, H, W) in the order RGB, or (1, H, W).")
    image = image.detach().cpu()
    if image.is_floating_point():
        if not ((image >= 0) & (image <= 1)).all():
            raise ValueError(
                f"The image is a tensor of {str(image.dtype).removeprefix('torch.')} with values beyond 0 to 1. Give it before it is "
                "normalized: from 0 to 1, or as uint8 from 0 to 255."
            )
        image = (image.float() * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"The image is a tensor of {image.dtype}. It has to be of uint8, or of floating-point numbers from 0 to 1.")
    return np.ascontiguousarray(image.expand(3, -1, -1).numpy()[::-1].transpose(1, 2, 0))
