"""Resizing and mirroring by torch, beside Detectron2's transforms."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, VFlipTransform
from PIL import Image

from detkit.config import get_cfg
from detkit.data import FastAugmentations, build_test_mapper, build_train_mapper, transformed_pixels
from tests.data.test_mapper import records_of
from tests.toys.datasets import CocoFolder


def picture(height: int = 37, width: int = 52, channels: int = 3) -> np.ndarray:
    """Smooth shapes with sharp borders and some noise, as in a photo."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    smooth = 120 + 80 * np.sin(rows / 5)[..., None] * np.cos(columns / np.arange(4, 4 + channels)[:, None, None]).transpose(1, 2, 0)
    smooth[height // 4 : height // 2, width // 3 : width // 2] = 250
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


LAYOUTS = {
    "plain": picture(),
    "backwards channels": picture()[..., ::-1],
    "mirrored": picture()[:, ::-1],
    "channel by channel": np.ascontiguousarray(picture().transpose(2, 0, 1)).transpose(1, 2, 0),
    "cut out": picture()[3:30, 5:40],
    "gray": picture(channels=1),
    "no channels": picture(channels=1)[..., 0],
}


@pytest.mark.parametrize("size", [(80, 117), (20, 31), (37, 90), (5, 7), (1, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("interp", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_resized_pixels_are_those_of_pillow_up_to_rounding(size: tuple[int, int], layout: str, interp: Image.Resampling) -> None:
    image = LAYOUTS[layout]
    before = image.copy()
    transform = T.ResizeTransform(*image.shape[:2], *size, interp)
    ours, theirs = transformed_pixels(transform, image), transform.apply_image(image)
    assert ours.shape == theirs.shape and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (image == before).all()


def test_an_image_that_cannot_be_written_to_is_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = np.asarray(Image.fromarray(picture()))
    assert not image.flags.writeable
    transformed_pixels(T.ResizeTransform(37, 52, 60, 60), image)
    assert not recwarn.list


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flip", [HFlipTransform, VFlipTransform])
def test_mirrored_pixels_are_equal(layout: str, flip: type) -> None:
    image = LAYOUTS[layout]
    transform = flip(image.shape[1 if flip is HFlipTransform else 0])
    np.testing.assert_array_equal(transformed_pixels(transform, image), transform.apply_image(image))


@pytest.mark.parametrize("layout", ["plain", "backwards channels"])
def test_what_is_handed_over_needs_no_copy(layout: str) -> None:
    image = LAYOUTS[layout]
    resized = transformed_pixels(T.TransformList([T.ResizeTransform(37, 52, 74, 104), HFlipTransform(104)]), image)
    assert resized.transpose(2, 0, 1).flags.c_contiguous


class _Other(T.ResizeTransform):
    """Somebody's transform with pixels of its own."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        return np.full((self.new_h, self.new_w, 3), 7, np.uint8)


@pytest.mark.parametrize(
    ("transform", "image"),
    [
        (T.ResizeTransform(37, 52, 60, 60, Image.Resampling.NEAREST), picture()),
        (T.ResizeTransform(37, 52, 60, 60), picture().astype(np.float32)),
        (T.ResizeTransform(37, 52, 60, 60), picture(channels=4)),
        (HFlipTransform(52), picture().astype(np.float32)),
        (_Other(37, 52, 60, 60), picture()),
        (T.CropTransform(3, 4, 20, 10), picture()),
    ],
)
def test_everything_else_stays_as_it_is(transform: T.Transform, image: np.ndarray) -> None:
    np.testing.assert_array_equal(transformed_pixels(transform, image), transform.apply_image(image))


def test_all_augmentations_of_detectron2_draw_and_do_the_same() -> None:
    augmentations = [
        T.RandomFlip(1.0),
        T.RandomApply(T.AugmentationList([T.ResizeShortestEdge([30, 60], 200, "choice"), T.RandomCrop("relative", (0.8, 0.9))]), 0.9),
        T.RandomBrightness(0.9, 1.1),
        T.ResizeScale(0.5, 2.0, 64, 64),
        T.FixedSizeCrop((48, 80)),
        T.RandomRotation([-20, 20]),
        T.RandomFlip(1.0, horizontal=False, vertical=True),
        T.RandomExtent((0.9, 1.1), (0.1, 0.1)),
        T.Resize((40, 50)),
    ]
    labels = (picture()[..., 0] > 128).astype(np.uint8)
    made = []
    for kind in (T.AugmentationList, FastAugmentations):
        np.random.seed(3)
        given = T.AugInput(picture(), boxes=np.array([[5.0, 6, 20, 30]]), sem_seg=labels.copy())
        transforms = kind(augmentations)(given)
        made.append((given, transforms.apply_coords(np.array([[10.0, 12]])), [type(each) for each in transforms.transforms]))
    (theirs, points, kinds), (ours, our_points, our_kinds) = made
    assert kinds == our_kinds
    np.testing.assert_array_equal(points, our_points)
    np.testing.assert_array_equal(theirs.boxes, ours.boxes)
    np.testing.assert_array_equal(theirs.sem_seg, ours.sem_seg)
    assert theirs.image.shape == ours.image.shape
    apart = np.abs(theirs.image.astype(int) - ours.image)
    assert apart.mean() < 0.5 and apart.max() <= 4  # rounded four times


@pytest.mark.parametrize("build", [build_train_mapper, build_test_mapper])
@pytest.mark.parametrize("resizing", ["torch", "pillow"])
def test_the_key_says_who_resizes(coco_folder: CocoFolder, monkeypatch: pytest.MonkeyPatch, build: object, resizing: str) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RESIZE = (96,), 96, resizing
    record = records_of(coco_folder)[0]
    asked: list[object] = []
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *_: asked.append(size) or self.transform(size, Image.Transform.EXTENT, (0, 0, *self.size))
    )
    assert build(cfg)(record)["image"].shape == (3, 96, 128)  # type: ignore[operator]
    assert bool(asked) == (resizing == "pillow")
