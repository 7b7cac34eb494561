"""What square patches have of regions that are painted over each other, patch by patch.

Regions are never united as a whole: what decides a patch is the few regions it touches, so that thousands of
outlines and a hundred thousand patches are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["Cover", "cover_of_centers", "cover_of_patches"]

Ints = NDArray[np.int64]
Geometries = NDArray[np.object_]

# Beyond this many vertices an outline is halved, and halved again.
_PIECE_VERTICES = 256


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Which share of which patch is of which layer: (S,) each. A patch comes at most once with a layer."""

    row: Ints
    layer: Ints
    share: NDArray[np.float64]


def cover_of_centers(
    areas: Sequence[shapely.Geometry], layers: Sequence[int], coords: NDArray[np.int64], size: float
) -> Cover:
    """The highest layer at the center of each patch with corner `coords` (M, 2) and side `size`."""
    pieces, layer = _pieces(areas, layers)
    centers = shapely.points(coords + size / 2)
    rows, columns = shapely.STRtree(pieces).query(centers, predicate="intersects")
    top = _highest(rows, layer[columns], len(coords))
    row = np.flatnonzero(top >= 0)
    return Cover(row=row, layer=top[row], share=np.ones(len(row)))


def cover_of_patches(
    areas: Sequence[shapely.Geometry], layers: Sequence[int], coords: NDArray[np.int64], size: float
) -> Cover:
    """What is visible of each layer, the higher above the lower, in each patch: exact shares of its area.

    `areas` are valid geometries, `layers` their numbers from 0. Patches have corners `coords` (M, 2) and side
    `size`.
    """
    pieces, layer = _pieces(areas, layers)
    boxes = shapely.box(*coords.T, *(coords + size).T)
    shapely.prepare(pieces)
    full = np.full(len(coords), -1)
    seen: list[tuple[Ints, Ints]] = []
    # From the top: what is below a layer that covers all of a patch is not seen there, nor looked for.
    for one in np.unique(layer)[::-1]:
        own, open_ = np.flatnonzero(layer == one), np.flatnonzero(full < 0)
        rows, columns = shapely.STRtree(pieces[own]).query(boxes[open_])
        rows, columns = open_[rows], own[columns]
        full[_within(rows, columns, boxes, pieces)] = one
        left = full[rows] < 0
        rows, columns = rows[left], columns[left]
        meets = shapely.intersects(pieces[columns], boxes[rows])
        seen.append((rows[meets], columns[meets]))
    rows, columns = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    row, level, clipped = _united(rows, layer[columns], _clipped(pieces[columns], boxes[rows]))
    visible = _from_the_top(row, level, clipped, len(coords))
    partly = np.flatnonzero(full >= 0)
    covered = np.bincount(row, visible, len(coords))
    return Cover(
        row=np.concatenate([row, partly]),
        layer=np.concatenate([level, full[partly]]),
        share=np.concatenate([visible, size**2 - covered[partly]]) / size**2,
    )


def _within(rows: Ints, columns: Ints, boxes: Geometries, pieces: Geometries) -> Ints:
    """Those of the rising `rows` (P,) whose box lies properly within a piece that it is paired with.

    Each is asked until one does, so that boxes below hundreds of pieces cost few questions. A box that
    touches the outline from inside is measured instead, and has its full share.
    """
    row, start = np.unique(rows, return_index=True)
    stop = np.append(start[1:], len(rows))
    found, step = [row[:0]], 1
    while len(row):
        count = np.minimum(step, stop - start)
        owner = np.repeat(np.arange(len(row)), count)
        pair = np.arange(len(owner)) + np.repeat(start - (np.cumsum(count) - count), count)
        inside = shapely.contains_properly(pieces[columns[pair]], boxes[rows[pair]])
        done = np.zeros(len(row), bool)
        done[owner[inside]] = True
        found.append(row[done])
        start, step = start + count, step * 2
        more = ~done & (start < stop)
        row, start, stop = row[more], start[more], stop[more]
    return np.concatenate(found)


def _clipped(areas: Geometries, boxes: Geometries) -> Geometries:
    """Each of `areas` (S,) within its box: a few corners, whatever they were."""
    bounds = shapely.bounds(boxes).tolist()
    # A third of the time of an intersection, and in rare cases no valid geometry.
    pairs = zip(areas, bounds, strict=True)
    clips = np.fromiter((shapely.clip_by_rect(area, *box) for area, box in pairs), object, len(areas))
    bad = ~shapely.is_valid(clips)
    clips[bad] = shapely.intersection(areas[bad], boxes[bad])
    return clips


def _highest(rows: Ints, layers: Ints, count: int) -> Ints:
    """(count,) the highest of `layers` (P,) with each of `rows` (P,), -1 where there is none."""
    highest = np.full(count, -1)
    np.maximum.at(highest, rows, layers)
    return highest


def _united(rows: Ints, layers: Ints, clips: Geometries) -> tuple[Ints, Ints, Geometries]:
    """One geometry for each patch and layer, in the order of layers."""
    order = np.lexsort((rows, layers))
    rows, layers, clips = rows[order], layers[order], clips[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (layers[1:] != layers[:-1])
    starts = np.flatnonzero(new)
    counts = np.diff(starts, append=len(rows))
    united = clips[starts]
    # By how many are united, so that each is one call over all patches.
    for count in np.unique(counts[counts > 1]):
        several = np.flatnonzero(counts == count)
        united[several] = shapely.union_all(clips[starts[several, None] + np.arange(count)], axis=1)
    return rows[starts], layers[starts], united


def _from_the_top(rows: Ints, layers: Ints, areas: Geometries, count: int) -> NDArray[np.float64]:
    """The visible part of each of `areas` (S,), in the order of layers, of `rows` (S,) below `count`."""
    visible: NDArray[np.float64] = shapely.area(areas)
    above = np.full(count, None, object)
    left = np.bincount(rows, minlength=count)
    starts = np.flatnonzero(np.diff(layers, prepend=-1))
    stops = np.append(starts, len(rows))[1:]
    for start, stop in zip(starts[::-1], stops[::-1], strict=True):
        one, row = areas[start:stop], rows[start:stop]
        hidden = np.flatnonzero(~shapely.is_missing(above[row]))
        visible[start + hidden] = shapely.area(shapely.difference(one[hidden], above[row[hidden]]))
        left[row] -= 1
        # What lies lowest in its patch hides nothing.
        hides = left[row] > 0
        hidden = hidden[hides[hidden]]
        one[hidden] = shapely.union(one[hidden], above[row[hidden]])
        above[row[hides]] = one[hides]
    return visible


def _pieces(areas: Sequence[shapely.Geometry], layers: Sequence[int]) -> tuple[Geometries, Ints]:
    """Polygons of few vertices, and the layer of each: an intersection takes as long as its geometries."""
    parts, owner = shapely.get_parts(np.array(areas, object), return_index=True)
    layer = np.asarray(layers, np.int64)[owner]
    done: list[tuple[Geometries, Ints]] = []
    while len(parts):
        large = shapely.get_num_coordinates(parts) > _PIECE_VERTICES
        done.append((parts[~large], layer[~large]))
        halves = np.array([half for part in parts[large] for half in _halves(part)], object)
        parts, owner = shapely.get_parts(halves, return_index=True)
        layer = np.repeat(layer[large], 2)[owner]
        is_area = shapely.area(parts) > 0  # a half may be a line, or hold one
        parts, layer = parts[is_area], layer[is_area]
    if not done:
        return np.empty(0, object), np.empty(0, np.int64)
    return np.concatenate([one for one, _ in done]), np.concatenate([one for _, one in done])


def _halves(part: shapely.Geometry) -> tuple[shapely.Geometry, shapely.Geometry]:
    x0, y0, x1, y1 = part.bounds
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    boxes = ((x0, y0, x, y1), (x, y0, x1, y1)) if x1 - x0 > y1 - y0 else ((x0, y0, x1, y), (x0, y, x1, y1))
    first, second = (shapely.intersection(part, shapely.box(*box)) for box in boxes)
    return first, second
