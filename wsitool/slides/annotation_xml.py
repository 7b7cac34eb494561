"""Outlines of the programs that write XML: ImageScope, HALO, ASAP and NDP.view.

* Aperio ImageScope: `Annotations[@MicronsPerPixel]/Annotation[@Id,@Name]/Regions/Region[@Type,@NegativeROA]`
  with `Vertices/Vertex[@X,@Y]`; a region with NegativeROA=1 is a hole in the others of its Annotation.
* HALO: the same with `V` for `Vertex`, and the types by name.
* ASAP: `ASAP_Annotations/Annotations/Annotation[@Name,@Type,@PartOfGroup]` with
  `Coordinates/Coordinate[@Order,@X,@Y]`.
* NDP.view: `annotations/ndpviewstate` with `title` and `annotation[@type]`, in nanometres from the
  slide's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
import shapely
from numpy.typing import NDArray

from wsitool.base.tables import decimal
from wsitool.slides.outlines import Outlines, Unusable, ellipse, rectangle
from wsitool.slides.vertex_runs import XML_RUN

__all__ = ["from_asap", "from_imagescope", "from_ndpview", "names_of", "number"]

Ring = NDArray[np.float64]

_ASAP_OUTLINES = frozenset({"polygon", "spline", "rectangle"})
_ASAP_OTHERS = {"dot": "a point", "pointset": "points", "measurement": "a measurement"}
# Of which two corners may stand for the whole, and an ellipse has at most the five of its closed box.
_RECTANGLES, _ELLIPSES, _OF_A_BOX = ("1", "rectangle"), ("2", "ellipse"), 5
_LINES = {"3": "an arrow", "4": "a ruler", "arrow": "an arrow", "ruler": "a ruler", "line": "a line"}


def from_imagescope(root: Element, runs: Sequence[Ring]) -> Outlines:
    """Read ImageScope's and HALO's elements; Unusable or a LookupError where they are not as expected."""
    outlines = Outlines()
    for annotation in root.iterfind("Annotation"):
        attributes = [item.get("Name", "") for item in annotation.iterfind("Attributes/Attribute")]
        # A name is what people map; the Id is what PAIP's label maps use, and is always there.
        names = names_of(annotation.get("Name", ""), *attributes, annotation.get("Id", ""))
        solid: list[shapely.Geometry] = []
        holes: list[shapely.Geometry] = []
        for region in annotation.iterfind("Regions/Region"):
            kind = region.get("Type", "").lower()
            # Both programs' vertices in one walk; other elements are theirs alone.
            points = _points(region.findall("Vertices/*"), ("Vertex", "V"), runs)[:, -2:]
            if kind in _LINES or (len(points) < 3 and kind not in (*_RECTANGLES, *_ELLIPSES)):
                outlines.drop(names[0], _LINES.get(kind, _by_points(len(points))))
                continue
            area = outlines.area(_corners(kind, points), names[0])
            # Clockwise or not does not matter: the file says what is a hole.
            if area is not None:
                is_hole = region.get("NegativeROA", "0").lower() in ("1", "true")
                (holes if is_hole else solid).append(area)
        _cut(outlines, names, solid, holes)
    return outlines


def _cut(
    outlines: Outlines,
    names: tuple[str, ...],
    solid: Sequence[shapely.Geometry],
    holes: Sequence[shapely.Geometry],
) -> None:
    """Every hole in every outline of its Annotation: files do not say which holes belong to which."""
    everything = shapely.union_all(solid)
    for hole in holes:
        if not shapely.intersects(everything, hole):
            outlines.drop(names[0], "a hole outside of its outline")
    index = shapely.STRtree(holes)
    for area in solid:
        left = outlines.cut(area, [holes[i] for i in index.query(area, predicate="intersects")], names[0])
        outlines.add(names, [] if left is None else [left])


def from_asap(root: Element, runs: Sequence[Ring]) -> Outlines:
    """Read ASAP's elements; Unusable or a LookupError where they are not as expected."""
    outlines = Outlines()
    for annotation in root.iterfind("Annotations/Annotation"):
        group = annotation.get("PartOfGroup", "")
        # ASAP writes "None" for no group.
        names = names_of("" if group == "None" else group, annotation.get("Name", ""))
        points = _points(annotation.findall("Coordinates/*"), ("Coordinate",), runs)
        kind = annotation.get("Type", "Polygon").lower()
        if kind not in _ASAP_OUTLINES or len(points) < 3:
            outlines.drop(names[0], _ASAP_OTHERS.get(kind, _by_points(len(points))))
            continue
        order = points[:, 0]
        if not np.isfinite(order).all():
            bad = order[~np.isfinite(order)][0]
            raise Unusable(f"a vertex of '{names[0]}' has the Order '{bad}', which is no finite number")
        # Not always in order in the file.
        area = outlines.area(points[np.argsort(order, kind="stable"), 1:], names[0])
        outlines.add(names, [] if area is None else [area])
    return outlines


def from_ndpview(root: Element) -> Outlines:
    """Read NDP.view's elements, in nanometres from the slide's centre; Unusable where they are in others."""
    outlines = Outlines()
    for view in root.iterfind("ndpviewstate"):
        names = names_of(view.findtext("title") or "", view.findtext("details") or "")
        unit = (view.findtext("coordformat") or "nanometers").strip().lower()
        if unit not in ("nanometers", "nanometres"):
            raise Unusable(f"the coordinates of '{names[0]}' are in {unit}, where nanometers are expected")
        for annotation in view.iterfind("annotation"):
            kind = annotation.get("type", "").lower()
            ring = _ndpview_ring(annotation, kind)
            if ring is None:
                outlines.drop(names[0], f"a {kind}" if kind not in ("", "freehand") else "a line")
                continue
            area = outlines.area(ring, names[0])
            outlines.add(names, [] if area is None else [area])
    return outlines


def _ndpview_ring(annotation: Element, kind: str) -> Ring | None:
    """The outline of an annotation (n, 2); None for a line, a pin, a measure."""
    if kind == "circle":
        x, y, radius = (number(annotation.findtext(name) or "") for name in ("x", "y", "radius"))
        return ellipse(np.array([(x - radius, y - radius), (x + radius, y + radius)]))
    points = annotation.findall("pointlist/point")
    if kind not in ("", "freehand", "rectangle", "polygon") or not points:
        return None
    if (annotation.findtext("closed") or "1").strip() == "0":
        return None
    return np.array(
        [[number(point.findtext(axis) or "") for axis in ("x", "y")] for point in points], np.float64
    )


def names_of(*names: str) -> tuple[str, ...]:
    """The names that are not empty, each once."""
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip())) or ("unnamed",)


def number(text: str) -> float:
    """A coordinate, with a decimal point or comma; Unusable where it is neither or may be several."""
    try:
        return float(text)
    except ValueError:
        try:
            return decimal(text)
        except ValueError as error:
            raise Unusable(f"the coordinate {error}") from None


def _points(elements: Sequence[Element], tags: tuple[str, ...], runs: Sequence[Ring]) -> Ring:
    """The vertices among some elements, (n, 3) order, x, y; those of runs may have no order."""
    parts: list[Ring] = []
    for element in elements:
        if element.tag == XML_RUN:
            run = runs[int(element.attrib["N"])]
            parts.append(run if run.shape[1] == 3 else np.insert(run, 0, 0.0, axis=1))
        elif element.tag in tags:
            x, y = number(element.attrib["X"]), number(element.attrib["Y"])
            parts.append(np.array([[number(element.get("Order", "0")), x, y]]))
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, 3)), *parts])


def _by_points(count: int) -> str:
    return "a point" if count == 1 else "a line" if count == 2 else "an outline without an area"


def _corners(kind: str, points: Ring) -> Ring:
    """The outline of a rectangle or ellipse of which only corners of its box are told; else `points`."""
    if kind in _ELLIPSES and 2 <= len(points) <= _OF_A_BOX:
        return ellipse(points)
    return rectangle(points) if kind in _RECTANGLES and len(points) == 2 else points
