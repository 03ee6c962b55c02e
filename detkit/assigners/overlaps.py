"""Which object every anchor overlaps most, and which anchors every object overlaps most, without comparing all with all.

On one level, the overlap of an object with the anchors of one shape depends on their offset alone, and falls on both sides of the middle.
So the anchors that overlap it by more than a given IoU stand in a window, whose rows and columns follow from sides and areas. Windows are
made in float64, a little too large; what is compared are IoUs in float32, computed as Detectron2 computes them, bit for bit.

All of this depends on boxes alone and runs on the host. N counts the objects of the batch, S = L * A pairs of a level and an anchor on it
(a shape); the other symbols are defined in :mod:`detkit.structures`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from detkit.geometry import Priors
from detkit.host import on_host
from detkit.structures import GroundTruth

__all__ = ["BestOverlaps", "best_overlaps"]

#: the windows in which anchors look for better objects grow step by step, from one IoU to so much of it: few need the large ones
STEP = 0.5
#: pairs that are compared at a time: few enough for a processor's cache
PAIRS_AT_ONCE = 1 << 16
#: float32 numbers are this close, relatively
EPS = 2.0**-23
#: more than IoUs are rounded by, relatively, beside what rounding changes of lengths
MARGIN = 1e-5
#: keeps quotients finite
TINY, TINY32 = 1e-30, np.finfo(np.float32).tiny


@dataclass(frozen=True)
class BestOverlaps:
    """For the anchors of each image, all (B, P).

    Attributes:
        iou: float32, the highest IoU with an object where ``complete``; 0 if none was found.
        gt_index: int64, the object that has it, the lowest index of equal ones; what it is without one has no meaning.
        is_best: bool, whether no anchor overlaps some object more.
    """

    iou: np.ndarray
    gt_index: np.ndarray
    is_best: np.ndarray


def best_overlaps(
    gt: GroundTruth, priors: Priors, cells: np.ndarray, *, least_iou: float, best_of_objects: bool, best_from: float = 0.0
) -> BestOverlaps:
    """Compares objects with anchors.

    Args:
        gt: the objects.
        priors: the anchors.
        cells: (B, L, 2) rows and columns of each level that take part.
        least_iou: of an anchor whose IoU and object have to be right; below it they may be those of another object, or none.
        best_of_objects: whether ``is_best`` is asked for, and IoU and object of these anchors have to be right, too.
        best_from: IoU from which on an anchor is an object's best.
    """
    search = _Search(gt, priors, cells)
    keys = np.zeros(len(cells) * priors.num_priors, np.int64)
    is_best = np.zeros(len(keys), bool)
    if len(search.boxes):
        if best_of_objects:
            _find_with_best(search, keys, is_best, least_iou, best_from)
        else:
            for _ in search.compare(np.full(len(search.boxes), least_iou), keys):
                pass
    keys, is_best = (search.in_order_of_priors(x) for x in (keys, is_best))
    return BestOverlaps(_iou_of(keys), gt.valid.shape[1] - 1 - (keys & 0xFFFFFFFF), is_best)


def _find_with_best(search: _Search, keys: np.ndarray, is_best: np.ndarray, least_iou: float, best_from: float) -> None:
    """Fills keys and ``is_best``, with the objects of all anchors that are some object's best."""
    lowest, highest = search.bounds_of_best()
    lowest = np.where(highest < best_from, least_iou, np.minimum(lowest, least_iou))
    for pairs in search.compare(lowest, keys):
        best = np.maximum.reduceat(pairs.iou, pairs.starts)
        best = np.where((best > 0) & (best >= np.float32(best_from)), best, np.float32(-1))
        chosen = pairs.iou == np.repeat(best, np.diff(pairs.starts, append=len(pairs.iou)))
        is_best[pairs.anchor[chosen]] = True
    reached, weakest = least_iou, 0.0
    while True:
        # all objects that overlap by ``reached`` were found: who overlaps each of the found ones less may have missed a better one
        unsure = np.flatnonzero(is_best & (_iou_of(keys) < np.float32(reached)))
        if not len(unsure) or reached == weakest:
            return
        weakest = float(_iou_of(keys[unsure]).min())
        reached = max(reached * STEP, weakest)
        for _ in search.compare(np.full(len(search.boxes), reached), keys, among=unsure):
            pass


def _iou_of(keys: np.ndarray) -> np.ndarray:
    return (keys >> 32).astype(np.int32).view(np.float32)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of objects and anchors, object by object: anchor (M,), IoU (M,) float32, and where each object starts that has any."""

    anchor: np.ndarray
    iou: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _Axis:
    """One axis of the boxes and of the anchors.

    Attributes:
        box_near, box_far: (N,) float32 in pixels.
        near, far: (T,) float32 of the anchors of each column (or row) of each shape, one shape after the other.
        sides: (T,) float32, how long these anchors are.
        relative_near, relative_far: (S,) float64, relative to the location.
        starts: (S,) of every shape in the table.
        limits: (N, S) columns (or rows) that take part in the image of each object.
    """

    box_near: np.ndarray
    box_far: np.ndarray
    near: np.ndarray
    far: np.ndarray
    sides: np.ndarray
    relative_near: np.ndarray
    relative_far: np.ndarray
    starts: np.ndarray
    limits: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """Runs of neighboring anchors in one row that are compared with one object, (R,) each, object by object: the object, its first anchor,
    how many, what to add to an anchor to find its column in the table, overlap along y and height of the anchors in float32."""

    object: np.ndarray
    first: np.ndarray
    lengths: np.ndarray
    to_column: np.ndarray
    overlap: np.ndarray
    height: np.ndarray

    def select(self, span: slice) -> _Rows:
        return _Rows(*(getattr(self, part.name)[span] for part in fields(self)))


class _Search:
    """Objects and anchors of a batch. Anchors are numbered image by image, level by level, shape by shape, row by row.

    Args: see :func:`best_overlaps`.
    """

    def __init__(self, gt: GroundTruth, priors: Priors, cells: np.ndarray) -> None:
        grid, self.plus_one = priors.grid, np.float32(priors.plus_one)
        self.num_priors, self.num_anchors, self.level_sizes = priors.num_priors, priors.anchors_per_point, grid.sizes
        self.image, number = np.nonzero(on_host(gt.valid))
        self.rank = (gt.valid.shape[1] - 1 - number).astype(np.int64)
        self.boxes = on_host(gt.boxes)[self.image, number].astype(np.float32)
        anchors = np.concatenate([on_host(x.float()) for x in priors.cell_anchors])  # (S, 4)
        level = np.repeat(np.arange(grid.num_levels), self.num_anchors)
        sizes = np.asarray(grid.sizes)[level]  # (S, 2) rows, columns
        self.starts = sizes.prod(1).cumsum() - sizes.prod(1)  # of every shape's anchors in an image
        self.widths = sizes[:, 1]
        self.strides, self.offset = np.asarray(grid.strides, np.float32)[level], np.float32(grid.offset)
        self.x, self.y = (self._axis(axis, anchors, sizes[:, 1 - axis], cells[:, level, 1 - axis]) for axis in (0, 1))
        self._bound_overlaps()

    def _axis(self, axis: int, anchors: np.ndarray, cells: np.ndarray, own_cells: np.ndarray) -> _Axis:
        points = [(np.arange(n, dtype=np.float32) + self.offset) * s for n, s in zip(cells, self.strides, strict=True)]
        near, far = (np.concatenate([p + a for p, a in zip(points, anchors[:, k], strict=True)]) for k in (axis, axis + 2))
        return _Axis(
            box_near=self.boxes[:, axis],
            box_far=self.boxes[:, axis + 2],
            near=near,
            far=far,
            sides=_side(near, far, self.plus_one),
            relative_near=anchors[:, axis].astype(np.float64),
            relative_far=anchors[:, axis + 2].astype(np.float64),
            starts=cells.cumsum() - cells,
            limits=np.minimum(own_cells, cells)[self.image],
        )

    def _bound_overlaps(self) -> None:
        """The most that objects overlap anchors of each shape along either axis, (N, S), areas, and what rounding may change of lengths."""
        ends = [np.abs(x).max(initial=0) for axis in (self.x, self.y) for x in (axis.near, axis.far, axis.box_near, axis.box_far)]
        self.rounding = 8 * EPS * float(max(ends) + self.plus_one)
        self.most_x, self.most_y = (self._most_overlap(axis) for axis in (self.x, self.y))
        width, height = (axis.relative_far - axis.relative_near + float(self.plus_one) for axis in (self.x, self.y))
        change = self.rounding
        self.least_areas = np.maximum(width - change, 0) * np.maximum(height - change, 0)  # (S,)
        self.most_areas = np.maximum(width + change, 0) * np.maximum(height + change, 0)
        self.box_areas = _side(self.x.box_near, self.x.box_far, self.plus_one) * _side(self.y.box_near, self.y.box_far, self.plus_one)

    def _most_overlap(self, axis: _Axis) -> np.ndarray:
        """(N, S) of the cell that is nearest to the middle, which overlaps most; -inf where there is none."""
        near, far = (x.astype(np.float64)[:, None] for x in (axis.box_near, axis.box_far))
        middle = (near + far - axis.relative_near - axis.relative_far) / 2
        point = (np.rint(middle / self.strides - self.offset).clip(0, axis.limits - 1) + self.offset) * self.strides
        overlap = np.minimum(point + axis.relative_far, far) - np.maximum(point + axis.relative_near, near) + self.plus_one
        return np.where(axis.limits > 0, overlap, -np.inf)

    def bounds_of_best(self) -> tuple[np.ndarray, np.ndarray]:
        """What the highest IoU of each object with an anchor is at least and at most, (N,) each."""
        bounds = []
        for change, areas in ((-self.rounding, self.most_areas), (self.rounding, self.least_areas)):
            overlap = np.maximum(self.most_x + change, 0) * np.maximum(self.most_y + change, 0)
            union = areas + self.box_areas.astype(np.float64)[:, None] - overlap
            bounds.append(np.where(union > overlap, overlap / np.maximum(union, TINY), overlap > 0).max(axis=1))
        return bounds[0] * (1 - MARGIN), bounds[1] * (1 + MARGIN)

    def compare(self, least_iou: np.ndarray, keys: np.ndarray, among: np.ndarray | None = None) -> Iterator[_Pairs]:
        """Compares all pairs with an IoU of at least ``least_iou``, and some others; some objects at a time.

        Args:
            least_iou: (N,) of each object.
            keys: (B * P,) of every anchor, which keep the highest IoU and the lowest index of the objects that have it.
            among: numbers of the only anchors that are compared, ascending.
        """
        before = None
        if among is not None:
            before = np.zeros(len(keys) + 1, np.int64)
            before[among + 1] = 1
            np.cumsum(before, out=before)  # of these anchors, before every anchor
        rows = self._rows(least_iou, before)
        if before is not None:
            first, end = before[rows.first], before[rows.first + rows.lengths]
            rows = replace(rows, first=first, lengths=end - first)
        last = np.searchsorted(rows.object, np.arange(len(self.boxes)), side="right")  # row of each object
        ends = np.concatenate([[0], rows.lengths.cumsum()])[last]  # pairs of all objects up to it
        first = 0
        while first < len(ends):
            done, row = (ends[first - 1], last[first - 1]) if first else (0, 0)
            stop = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")), first + 1)
            if ends[stop - 1] > done:
                yield self._compare_rows(rows.select(slice(row, last[stop - 1])), keys, among)
            first = stop

    def _rows(self, least_iou: np.ndarray, before: np.ndarray | None) -> _Rows:
        """The rows of the windows, and in each the columns in which the IoU can be reached with the row's overlap along y.

        Args:
            least_iou: (N,) of each object.
            before: (B * P + 1,) how many anchors that are asked for stand before each one: rows without any are left out. None: all are.
        """
        least_iou, slack, x, y = least_iou * (1 - MARGIN), self.rounding, self.x, self.y
        most_x, most_y = self.most_x + slack, self.most_y + slack
        needed = (least_iou / (1 + least_iou))[:, None] * (self.least_areas + self.box_areas.astype(np.float64)[:, None])
        possible = (most_x > 0) & (most_y > 0) & (needed <= most_x * most_y)
        obj, shape = np.nonzero(possible)
        needed, limit = needed[possible], x.limits[possible]
        first, counts = self._range(y, obj, shape, needed / most_x[possible] - slack, y.limits[possible])
        level_start = self.image[obj] * self.num_priors + self.starts[shape]
        if before is not None:
            start = level_start + first * self.widths[shape]
            counts *= before[start + counts * self.widths[shape]] > before[start]
        window = np.repeat(np.arange(len(obj)), counts)
        row = np.arange(len(window)) + (first - counts.cumsum() + counts)[window]
        start = level_start[window] + row * self.widths[shape[window]]
        if before is not None:
            some = before[start + self.widths[shape[window]]] > before[start]
            window, row, start = window[some], row[some], start[some]
        obj, shape, needed, limit = (part[window] for part in (obj, shape, needed, limit))
        place = y.starts[shape] + row
        overlap = _side(np.maximum(y.near[place], y.box_near[obj]), np.minimum(y.far[place], y.box_far[obj]), self.plus_one)
        first, counts = self._range(x, obj, shape, needed / (overlap + slack) - slack, limit)
        return _Rows(obj, start + first, counts, x.starts[shape] - start, overlap, y.sides[place])

    def _range(
        self, axis: _Axis, obj: np.ndarray, shape: np.ndarray, needed: np.ndarray, limit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """First cell and number of cells on which anchors of a shape overlap an object by ``needed`` pixels along an axis."""
        needed, strides = needed - self.plus_one, self.strides[shape].astype(np.float64)
        low = (axis.box_near[obj] + needed - axis.relative_far[shape]) / strides - self.offset
        high = (axis.box_far[obj] - needed - axis.relative_near[shape]) / strides - self.offset
        first = np.ceil(low).clip(0, limit).astype(np.int64)
        end = (np.floor(high) + 1).clip(0, limit).astype(np.int64)
        return first, np.maximum(end - first, 0)

    def _compare_rows(self, rows: _Rows, keys: np.ndarray, among: np.ndarray | None) -> _Pairs:
        starts = rows.lengths.cumsum() - rows.lengths
        row = np.repeat(np.arange(len(starts)), rows.lengths)
        anchor = np.arange(len(row)) + (rows.first - starts)[row]
        if among is not None:
            anchor = among[anchor]
        obj, column = rows.object, anchor + rows.to_column[row]
        near = np.maximum(self.x.near[column], self.x.box_near[obj][row])
        overlap = _side(near, np.minimum(self.x.far[column], self.x.box_far[obj][row]), self.plus_one)
        overlap *= rows.overlap[row]
        union = self.x.sides[column] * rows.height[row]
        union += self.box_areas[obj][row]
        union -= overlap
        iou = np.divide(overlap, np.maximum(union, TINY32), out=overlap)
        np.maximum.at(keys, anchor, (iou.view(np.int32).astype(np.int64) << 32) + self.rank[obj][row])
        starts = starts[rows.lengths > 0]
        return _Pairs(anchor, iou, starts[np.diff(obj[rows.lengths > 0], prepend=-1) > 0])

    def in_order_of_priors(self, values: np.ndarray) -> np.ndarray:
        """(B, P) in the order of the project of (B * P,) in the order of this class."""
        values, parts, start = values.reshape(-1, self.num_priors), [], 0
        for height, width in self.level_sizes:
            stop = start + self.num_anchors * height * width
            level = values[:, start:stop].reshape(len(values), self.num_anchors, height * width)
            parts.append(level.transpose(0, 2, 1).reshape(len(values), stop - start))
            start = stop
        return np.concatenate(parts, axis=1)


def _side(near: np.ndarray, far: np.ndarray, plus_one: np.float32) -> np.ndarray:
    """Lengths from near to far, not negative."""
    side = far - near
    if plus_one:
        side += plus_one
    return np.maximum(side, 0, out=side)
