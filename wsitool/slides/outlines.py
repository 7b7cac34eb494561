"""Areas from drawn outlines, and an account of what was drawn and is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["Dropped", "Outlines", "Region", "Unusable", "ellipse", "rectangle"]

Ring = NDArray[np.float64]

_FARTHEST = 2.0**31  # pixels or nanometres; no slide is as large
# Of one outline with itself. To find what is inside takes a second or two at these, and grows by the square.
_MOST_CROSSINGS, _MOST_TOUCHES = 1000, 3000
# Sides looked up in one query: its answer has a row for each crossing.
_CROSSINGS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Region:
    """One outlined area (Polygon or MultiPolygon, with holes) and the names it goes by, best first.

    `tile` is one of QuPath's tiles, which a program laid there.
    """

    names: tuple[str, ...]
    area: shapely.Geometry
    tile: bool = False


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What was drawn by this name and has no area, why, and how often."""

    name: str
    reason: str
    count: int


class Unusable(ValueError):
    """Something in the file has the right form and cannot be meant."""


class Outlines:
    """What is read of one file, outline by outline."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._dropped: Counter[tuple[str, str]] = Counter()

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        return tuple(Dropped(name=name, reason=why, count=n) for (name, why), n in self._dropped.items())

    def drop(self, name: str, reason: str) -> None:
        """Leave out something called `name`, as it is `reason`: "a point"."""
        self._dropped[name, reason] += 1

    def add(self, names: tuple[str, ...], areas: Sequence[shapely.Geometry], *, tile: bool = False) -> None:
        """Add one region of valid `areas`, which may overlap; none of none."""
        if areas:
            area = areas[0] if len(areas) == 1 else shapely.union_all(areas)
            self.regions.append(Region(names=names, area=area, tile=tile))

    def area(self, ring: Ring, name: str, *, holes: Sequence[Ring] = ()) -> shapely.Geometry | None:
        """The valid area in a ring (n, 2) without its holes; None, and dropped, where there is none.

        What a ring encloses where it crosses itself is decided by the even-odd rule. Holes may overlap each
        other and the outline. Raises Unusable for coordinates that cannot be.
        """
        # As nearly all are drawn, in one step; rings need not be closed, and a closed one is as good.
        if len(ring) >= 3 and all(len(hole) >= 3 for hole in holes):
            for one in (ring, *holes):
                _check_coordinates(one, name)
            drawn = shapely.Polygon(ring, holes)
            if drawn.is_valid and drawn.area > 0:
                return drawn
        solid = self._simple(ring, name, "an outline without an area")
        if solid is None:
            return None
        cuts = [self._simple(hole, name, "a hole without an area") for hole in holes]
        return self.cut(solid, [cut for cut in cuts if cut is not None], name)

    def cut(
        self, area: shapely.Geometry, holes: Sequence[shapely.Geometry], name: str
    ) -> shapely.Geometry | None:
        """`area` without `holes`; None, and dropped, where they leave nothing of it."""
        for hole in holes:
            if not shapely.intersects(area, hole):
                self.drop(name, "a hole outside of its outline")
        left = shapely.difference(area, shapely.union_all(holes)) if holes else area
        if left.area > 0:
            return left
        self.drop(name, "an outline that its holes cover")
        return None

    def _simple(self, ring: Ring, name: str, flat: str) -> shapely.Geometry | None:
        area = None
        if len(ring) >= 3:
            _check_coordinates(ring, name)
            area = _even_odd(ring, name)
        if area is None:
            self.drop(name, flat)
        return area


def rectangle(corners: Ring) -> Ring:
    """The outline of the box around some points (n, 2)."""
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ellipse(corners: Ring) -> Ring:
    """The outline of the ellipse in the box around some points (n, 2)."""
    # 128 corners differ from the ellipse by less than a thousandth of its axes.
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.asarray((low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _check_coordinates(ring: Ring, name: str) -> None:
    if not np.isfinite(ring).all():
        raise Unusable(f"a coordinate of an outline of '{name}' is not a finite number")
    if (np.abs(ring) > _FARTHEST).any():
        raise Unusable(
            f"a coordinate of an outline of '{name}' is beyond any slide: level-0 pixels are meant"
        )


def _even_odd(ring: Ring, name: str) -> shapely.Geometry | None:
    drawn = shapely.Polygon(ring)
    if drawn.is_valid:
        return drawn if drawn.area > 0 else None
    _check_crossings(ring, name)
    # Outlines drawn by hand cross themselves; what make_valid leaves besides areas is lines.
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(drawn)))
    areas = [part for part in parts if part.area > 0]
    return shapely.multipolygons(areas) if areas else None


def _check_crossings(ring: Ring, name: str) -> None:
    # Closed; a last point that repeats the first makes a side of no length, dropped below.
    closed = np.concatenate([ring, ring[:1]])
    # (S, 2 ends, 2)
    sides = np.stack([closed[:-1], closed[1:]], axis=1)
    sides = sides[(sides[:, 0] != sides[:, 1]).any(axis=1)]
    # Sides that begin where another does: vertices the outline comes back to.
    touches = len(sides) - len(np.unique(sides[:, 0], axis=0))
    if touches > _MOST_TOUCHES:
        raise Unusable(
            f"an outline of '{name}' touches itself at more than {_MOST_TOUCHES} of its vertices: smooth it, "
            "or export its parts as outlines of their own"
        )
    lines = shapely.linestrings(sides)
    # An index of the sides: each is compared with those near it, not with all.
    tree = shapely.STRtree(lines)
    crossings = 0.0
    for first in range(0, len(lines), _CROSSINGS_AT_ONCE):
        pairs = tree.query(lines[first : first + _CROSSINGS_AT_ONCE], predicate="crosses")
        crossings += pairs.shape[1] / 2  # each is found from both sides
        if crossings > _MOST_CROSSINGS:
            raise Unusable(
                f"an outline of '{name}' crosses itself more than {_MOST_CROSSINGS} times, so that nobody "
                "can say what is inside: draw it again"
            )
