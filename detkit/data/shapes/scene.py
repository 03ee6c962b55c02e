"""One picture of `shapes`: what stands where, what covers what, and the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .outlines import OUTLINES, Outline
from .textures import add_clutter, background, random_color, surface

__all__ = ["SUPERSAMPLING", "Scene", "SceneObject", "render_scene"]

#: masks are drawn this many times finer than the image, so that edges are smooth and annotations exact to a fraction of a pixel
SUPERSAMPLING = 4

#: bounds of size classes (square root of the area of the box, in pixels) and their shares among the objects
SIZES, SIZE_SHARES = (8.0, 24.0, 96.0, 230.0), (0.12, 0.43, 0.45)
MIN_VISIBLE = 0.7  # of an object's area, of which others or the border may hide the rest
MIN_VISIBLE_SMALL = 0.9  # the same for small objects, which are unrecognizable when half hidden
CONTRAST = 110.0  # Euclidean distance of an object's colors from the mean color of what it is painted on, as far as there are such
MAX_TILT = 0.5  # radians, to either side
_TRIES = 25

Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class SceneObject:
    """An object as placed.

    Attributes:
        label: index of its class in :data:`OUTLINES`.
        outline: in pixels of the image.
        full_area: of the whole object in fine pixels, also where hidden or outside the image.
    """

    label: int
    outline: Outline
    full_area: int


@dataclass(frozen=True)
class Scene:
    """A rendered picture.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        owners: uint8 (H * SUPERSAMPLING, W * SUPERSAMPLING), 0 for background, else 1 + index of the visible object.
        objects: from back to front.
    """

    image: np.ndarray
    owners: np.ndarray
    objects: list[SceneObject]


def render_scene(rng: np.random.Generator, labels: list[int], height: int, width: int) -> Scene:
    """Paints one object per label where it finds room; a label without room is left out."""
    image = background(rng, height, width)
    add_clutter(rng, image, int(rng.integers(0, 4)))
    owners = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), dtype=np.uint8)
    objects: list[SceneObject] = []
    visible_areas: list[int] = []
    # large objects mostly stand behind small ones, which otherwise they would hide
    sizes = sorted((_sample_size(rng) for _ in labels), key=lambda size: -size * rng.uniform(0.5, 2.0))
    for label, size in zip(labels, sizes, strict=True):
        for _ in range(_TRIES):
            placed = _place(rng, label, size, owners, objects, visible_areas)
            if placed is not None:
                _paint(rng, image, placed.outline)
                objects.append(placed)
                break
    return Scene(_photograph(rng, image), owners, objects)


def _place(
    rng: np.random.Generator, label: int, size: float, owners: np.ndarray, objects: list[SceneObject], visible_areas: list[int]
) -> SceneObject | None:
    """Puts an object at a random place in front of the others and enters it in ``owners`` and ``visible_areas`` (fine pixels of each
    object that are to be seen). None, and nothing entered, where too much of it or of another would be hidden."""
    height, width = (side // SUPERSAMPLING for side in owners.shape)
    outline = _sample_outline(rng, label, size, height, width)
    window, mask = _fine_mask(outline)
    inside, part = _clipped(window, owners.shape)
    full_area = int(mask.sum())
    mask = mask[part]
    if mask.sum() < _required_share(outline) * full_area:
        return None
    hidden = np.bincount(owners[inside][mask], minlength=len(objects) + 1)[1:]
    for lost, other, visible in zip(hidden, objects, visible_areas, strict=True):
        if lost and visible - lost < _required_share(other.outline) * other.full_area:
            return None
    visible_areas[:] = [visible - lost for visible, lost in zip(visible_areas, hidden, strict=True)] + [int(mask.sum())]
    owners[inside][mask] = len(objects) + 1
    return SceneObject(label, outline, full_area)


def _sample_size(rng: np.random.Generator) -> float:
    """Square root of the area of a box in pixels: log-uniform within a size class."""
    group = int(rng.choice(len(SIZE_SHARES), p=SIZE_SHARES))
    return float(np.exp(rng.uniform(np.log(SIZES[group]), np.log(SIZES[group + 1]))))


def _required_share(outline: Outline) -> float:
    low, high = outline.bounds()
    return MIN_VISIBLE if np.sqrt(np.prod(high - low)) >= SIZES[1] else MIN_VISIBLE_SMALL


def _sample_outline(rng: np.random.Generator, label: int, size: float, height: int, width: int) -> Outline:
    """An example of the class, rotated and fitted into a box of the given size and a random aspect.

    Neither depends on the class, so that they say nothing about it; of several examples the one whose own aspect is nearest is
    stretched, so that no class looks distorted.
    """
    aspect = np.exp(rng.uniform(-0.4, 0.4))
    box = np.minimum(size * np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)]), [0.92 * width, 0.92 * height])
    center = rng.uniform(0, 1, size=2) * [width, height]
    draw = list(OUTLINES.values())[label]
    candidates = [_rotated(draw(rng), rng.uniform(-MAX_TILT, MAX_TILT)) for _ in range(8)]
    spans = [np.subtract(*candidate.bounds()[::-1]) for candidate in candidates]
    best = int(np.argmin([abs(np.log(span[0] / span[1] * box[1] / box[0])) for span in spans]))
    low, high = candidates[best].bounds()
    scale = np.diag(box / (high - low))
    return candidates[best].transformed(scale, center - scale @ (low + high) / 2)


def _rotated(outline: Outline, angle: float) -> Outline:
    cos, sin = np.cos(angle), np.sin(angle)
    return outline.transformed(np.array([[cos, -sin], [sin, cos]]), np.zeros(2))


def _fine_mask(outline: Outline) -> tuple[Window, np.ndarray]:
    """The bool mask of an object and where it lies: fine rows and columns, multiples of SUPERSAMPLING, maybe outside the image."""
    low, high = outline.bounds()
    start, stop = np.floor(low).astype(int) - 1, np.ceil(high).astype(int) + 1
    size = (stop - start) * SUPERSAMPLING
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    for part in outline.parts:
        cv2.fillPoly(mask, [_fine_points(ring - start) for ring in part], 1, shift=4)
    rows, columns = (slice(start[axis] * SUPERSAMPLING, stop[axis] * SUPERSAMPLING) for axis in (1, 0))
    return (rows, columns), mask.astype(bool)


def _clipped(window: Window, shape: tuple[int, ...]) -> tuple[Window, Window]:
    """The part of a window inside an array of the given shape: as slices of that array, and of one as large as the window."""
    rows, columns = (slice(max(w.start, 0), max(min(w.stop, side), 0)) for w, side in zip(window, shape, strict=False))
    part = (
        slice(rows.start - window[0].start, rows.stop - window[0].start),
        slice(columns.start - window[1].start, columns.stop - window[1].start),
    )
    return (rows, columns), part


def _fine_points(points: np.ndarray) -> np.ndarray:
    """Image coordinates as fixed-point (4 bits) coordinates of the fine grid, whose pixel centers have integer coordinates."""
    return np.round((points * SUPERSAMPLING - 0.5) * 16).astype(np.int32)


def _paint(rng: np.random.Generator, image: np.ndarray, outline: Outline) -> None:
    """Fills the object with a random surface, and now and then a border, onto a float32 image in place."""
    window, mask = _fine_mask(outline)
    height, width = (side // SUPERSAMPLING for side in mask.shape)
    rows, columns = (slice(fine.start // SUPERSAMPLING, fine.stop // SUPERSAMPLING) for fine in window)
    inside, part = _clipped((rows, columns), image.shape)
    local = image[inside]

    around = local.reshape(-1, 3).mean(axis=0)
    first, second = (random_color(rng, far_from=around, distance=CONTRAST) for _ in range(2))
    second = first + (second - first) * rng.uniform(0.0, 0.6)
    texture = surface(rng, height, width, np.stack([first, second]), rng.uniform(0.1, 0.6) * min(height, width))
    start = np.array([columns.start, rows.start])
    if rng.random() < 0.3:
        border, thickness = random_color(rng).tolist(), max(1, int(rng.uniform(0.02, 0.06) * min(height, width)))
        rings = [_image_points(ring - start) for part in outline.parts for ring in part]
        cv2.polylines(texture, rings, True, border, thickness, cv2.LINE_AA, shift=4)
    marks = [_image_points(ring - start) for ring in outline.marks]
    dark_or_light = (0.0, 0.0, 0.0) if first.mean() > 110 else (255.0, 255.0, 255.0)
    for ring in marks:
        cv2.fillPoly(texture, [ring], dark_or_light, cv2.LINE_AA, shift=4)

    alpha = mask.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean(axis=(1, 3), dtype=np.float32)[..., None]
    image[inside] = local * (1 - alpha[part]) + texture[part] * alpha[part]


def _image_points(points: np.ndarray) -> np.ndarray:
    """Image coordinates as fixed-point (4 bits) coordinates of pixels, whose centers have integer coordinates."""
    return np.round((points - 0.5) * 16).astype(np.int32)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light, blur and sensor noise; to uint8."""
    image = np.clip(image, 0, 255)
    image = 255 * (image / 255) ** np.exp(rng.uniform(-0.35, 0.35)) * rng.uniform(0.75, 1.1)
    blur = rng.uniform(0, 1.1)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image + rng.normal(0, rng.uniform(0, 12), size=image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
