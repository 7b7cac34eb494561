"""Reading outlines drawn in ImageScope, HALO, QuPath and ASAP; all coordinates are level-0 pixels.

* Aperio ImageScope XML: `Annotations/Annotation[@Id,@Name]/Regions/Region[@NegativeROA]` with
  `Vertices/Vertex[@X,@Y]`; a region with NegativeROA=1 is a hole in the others of its Annotation.
* HALO: the same with `V` for `Vertex`, and the types by name.
* QuPath GeoJSON: a FeatureCollection, one bare Feature, or a list of Features; the class is
  `properties.classification.name`.
* ASAP XML: `ASAP_Annotations/Annotations/Annotation[@Name,@Type,@PartOfGroup]` with
  `Coordinates/Coordinate[@Order,@X,@Y]`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
import shapely
from defusedxml import DefusedXmlException
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from wsitool.base.tables import decimal
from wsitool.base.text_files import decode_text, read_bytes
from wsitool.errors import LabelError

__all__ = ["ANNOTATION_SUFFIXES", "Annotations", "Region", "read_annotations"]

ANNOTATION_SUFFIXES = (".xml", ".geojson", ".json", ".annotations")
_ASAP_OUTLINES = frozenset({"polygon", "spline", "rectangle"})
_RECTANGLES, _ELLIPSES = ("1", "Rectangle"), ("2", "Ellipse")  # two corners stand for the whole
_FARTHEST = 2.0**31  # pixels; no slide is as large
# Of one outline with itself. To find what is inside takes a second or two at these, and grows by the square.
_MOST_CROSSINGS, _MOST_TOUCHES = 1000, 3000
# Sides looked up in one query: its answer has a row for each crossing.
_CROSSINGS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Region:
    """One outlined area (Polygon or MultiPolygon, with holes) and the names it goes by, best first."""

    names: tuple[str, ...]
    area: shapely.Geometry


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The regions of one file; `skipped` counts points, lines and other things without an area."""

    format: str
    regions: tuple[Region, ...]
    skipped: int


class _Unusable(ValueError):
    """Something in the file has the right form and cannot be meant."""


def read_annotations(path: str | Path) -> Annotations:
    """Read a file of any of the formats, told apart by content; LabelError if it is none of them.

    Outlines that cross themselves are mended by the even-odd rule. LabelError too for damaged files,
    coordinates that are not finite or beyond any slide, and outlines that cross themselves thousands of
    times.
    """
    path = Path(path)
    data = read_bytes(path, what="annotations", error=LabelError)
    try:
        # UTF-16 has a NUL in every letter, either kind may begin with a byte order mark.
        if data[:16].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
            return _from_xml(path, _xml(data))
        return _from_geojson(path, _json(data))
    # In this order: damage first, as several of these are ValueErrors.
    except (ParseError, DefusedXmlException, json.JSONDecodeError, RecursionError, _Undecodable) as error:
        raise LabelError(f"The annotations '{path}' are damaged: {error}.") from error
    except _Unusable as error:
        raise LabelError(f"The annotations '{path}' cannot be used: {error}.") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, ShapelyError) as error:
        raise LabelError(
            f"The annotations '{path}' do not have the expected structure ({error}): export them again from "
            "ImageScope, HALO, QuPath or ASAP."
        ) from error


class _Undecodable(ValueError):
    """The bytes are no text."""


def _json(data: bytes) -> Any:
    try:
        text, _ = decode_text(data)
    except ValueError as error:
        raise _Undecodable(str(error)) from error
    return json.loads(text)


def _xml(data: bytes) -> Element:
    try:
        # defusedxml: entities that expand to gigabytes, and external ones, are refused.
        root: Element = defusedxml.ElementTree.fromstring(data)
    except (LookupError, ValueError) as error:
        # The parser knows few encodings by itself, and none of those of Korea.
        stated = re.search(rb"""encoding=["']([\w.-]+)["']""", data[:200])
        if stated is None or isinstance(error, DefusedXmlException):
            raise
        try:
            text = data.decode(stated[1].decode())
        except (LookupError, ValueError) as reason:
            raise _Undecodable(
                f"it is not the {stated[1].decode()} that it says it is ({reason})"
            ) from reason
        root = defusedxml.ElementTree.fromstring(text)
    return root


def _from_xml(path: Path, root: Element) -> Annotations:
    if root.tag == "Annotations":
        return _from_imagescope(root)
    if root.tag == "ASAP_Annotations":
        return _from_asap(root)
    if root.tag == "annotations" and root.find("ndpviewstate") is not None:
        raise LabelError(
            f"'{path}' is of NDP.view, whose outlines are in nanometres from the slide's centre: convert it "
            "to GeoJSON in level-0 pixels."
        )
    raise LabelError(
        f"'{path}' is neither ImageScope or HALO XML (root Annotations) nor ASAP XML (root "
        f"ASAP_Annotations), its root is {root.tag}."
    )


def _from_imagescope(root: Element) -> Annotations:
    regions: list[Region] = []
    skipped = 0
    for annotation in root.iterfind("Annotation"):
        attributes = [item.get("Name", "") for item in annotation.iterfind("Attributes/Attribute")]
        # A name is what people map; the Id is what PAIP's label maps use, and is always there.
        names = _names(annotation.get("Name", ""), *attributes, annotation.get("Id", ""))
        solid: list[shapely.Geometry] = []
        holes: list[shapely.Geometry] = []
        for region in annotation.iterfind("Regions/Region"):
            # Both programs' vertices in one walk; other elements are theirs alone.
            vertices = [v for v in region.iterfind("Vertices/*") if v.tag in ("Vertex", "V")]
            outline = _polygon(_corners(region.get("Type"), _points(vertices)), name=names[0])
            if outline is None:
                skipped += 1
            else:
                # Clockwise or not does not matter: the file says what is a hole.
                (holes if region.get("NegativeROA", "0") == "1" else solid).append(outline)
        hole = shapely.union_all(holes)
        # Every hole in every outline of its Annotation: files do not say which holes belong to which.
        cut = (outline.difference(hole) if holes else outline for outline in solid)
        regions += [Region(names=names, area=area) for area in cut if not area.is_empty]
    kind = "HALO XML" if root.find("Annotation/Regions/Region/Vertices/V") is not None else "ImageScope XML"
    return Annotations(format=kind, regions=tuple(regions), skipped=skipped)


def _points(elements: Sequence[Element]) -> list[tuple[float, float]]:
    return [(_number(element.attrib["X"]), _number(element.attrib["Y"])) for element in elements]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        try:
            return decimal(text)
        except ValueError as error:
            raise _Unusable(f"the coordinate {error}") from None


def _corners(kind: str | None, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The outline of a rectangle or ellipse of which only two corners of its box are told; else `points`."""
    if len(points) != 2 or kind not in (*_RECTANGLES, *_ELLIPSES):
        return points
    (x0, y0), (x1, y1) = points
    if kind in _RECTANGLES:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    # 128 corners differ from the ellipse by less than a thousandth of its axes.
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    x = (x0 + x1) / 2 + abs(x1 - x0) / 2 * np.cos(angle)
    y = (y0 + y1) / 2 + abs(y1 - y0) / 2 * np.sin(angle)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _from_asap(root: Element) -> Annotations:
    regions: list[Region] = []
    skipped = 0
    for annotation in root.iterfind("Annotations/Annotation"):
        group = annotation.get("PartOfGroup", "")
        # ASAP writes "None" for no group.
        names = _names("" if group == "None" else group, annotation.get("Name", ""))
        # Not always in order in the file.
        coordinates = sorted(annotation.iterfind("Coordinates/Coordinate"), key=_order)
        outline = _polygon(_points(coordinates), name=names[0])
        if outline is None or annotation.get("Type", "Polygon").lower() not in _ASAP_OUTLINES:
            skipped += 1
            continue
        regions.append(Region(names=names, area=outline))
    return Annotations(format="ASAP XML", regions=tuple(regions), skipped=skipped)


def _order(coordinate: Element) -> float:
    text = coordinate.get("Order", "0")
    order = _number(text)
    if not math.isfinite(order):
        raise _Unusable(f"a vertex has the Order '{text}', which is no finite number")
    return order


def _from_geojson(path: Path, document: Any) -> Annotations:
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        features = document["features"]
    elif isinstance(document, dict) and document.get("type") == "Feature":
        features = [document]
    elif isinstance(document, list):
        features = document
    else:
        raise LabelError(
            f"'{path}' is no GeoJSON that QuPath writes: expected a FeatureCollection, a Feature or a list "
            "of Features."
        )
    regions: list[Region] = []
    skipped = 0
    for feature in features:
        names = _geojson_names(feature.get("properties") or {})
        outlines = _geojson_polygons(feature.get("geometry") or {}, names[0])
        if not outlines:
            skipped += 1
            continue
        # Parts of one feature may overlap; together they are one area.
        area = shapely.union_all(outlines)
        regions.append(Region(names=names, area=area))
    return Annotations(format="GeoJSON", regions=tuple(regions), skipped=skipped)


def _geojson_polygons(geometry: dict[str, Any], name: str) -> list[shapely.Geometry]:
    kind = geometry.get("type")
    if kind == "Polygon":
        polygons = [geometry["coordinates"]]
    elif kind == "MultiPolygon":
        polygons = geometry["coordinates"]
    elif kind == "GeometryCollection":
        # A collection may hold lines and points beside areas; those are dropped.
        return [outline for part in geometry["geometries"] for outline in _geojson_polygons(part, name)]
    else:
        return []
    outlines = (_polygon(rings[0], holes=rings[1:], name=name) for rings in polygons if rings)
    return [outline for outline in outlines if outline is not None]


def _geojson_names(properties: dict[str, Any]) -> tuple[str, ...]:
    classification = properties.get("classification") or ""
    if isinstance(classification, dict):
        # "names" is what QuPath writes for a class with subclasses, the widest first.
        parts = [str(part) for part in classification.get("names") or ()]
        # The whole path first, then the widest class: a label map may name either.
        classes = [str(classification.get("name") or ""), ": ".join(parts), *parts[:1]]
    else:
        classes = [str(classification)]
    return _names(*classes, str(properties.get("name") or ""))


def _names(*names: str) -> tuple[str, ...]:
    """The names that are not empty, each once."""
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip())) or ("unnamed",)


def _polygon(
    points: Sequence[Sequence[float]], *, holes: Sequence[Sequence[Sequence[float]]] = (), name: str
) -> shapely.Geometry | None:
    """A valid area from rings of x, y; None where there is no area (a point, a line).

    What an outline encloses where it crosses itself is decided by the even-odd rule.
    """
    if len(points) < 3:
        return None
    rings = [np.asarray(ring, np.float64)[:, :2] for ring in (points, *holes) if len(ring) >= 3]
    if not all(np.isfinite(ring).all() for ring in rings):
        raise _Unusable(f"a coordinate of an outline of '{name}' is not a finite number")
    if any((np.abs(ring) > _FARTHEST).any() for ring in rings):
        raise _Unusable(
            f"a coordinate of an outline of '{name}' is beyond any slide: level-0 pixels are meant"
        )
    # Rings need not be closed, and a closed one is as good.
    drawn = shapely.Polygon(rings[0], rings[1:])
    if drawn.is_valid:
        return drawn if drawn.area > 0 else None
    _check_crossings(rings, name)
    # Outlines drawn by hand cross themselves; what make_valid leaves besides areas is lines.
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(drawn)))
    areas = [part for part in parts if part.area > 0]
    return shapely.multipolygons(areas) if areas else None


def _check_crossings(rings: Sequence[NDArray[np.float64]], name: str) -> None:
    # (n + 1, 2) each, closed; a last point that repeats the first makes a side of no length, dropped below.
    closed = [np.concatenate([ring, ring[:1]]) for ring in rings]
    # (S, 2 ends, 2)
    sides = np.concatenate([np.stack([ring[:-1], ring[1:]], axis=1) for ring in closed])
    sides = sides[(sides[:, 0] != sides[:, 1]).any(axis=1)]
    # Sides that begin where another does: vertices the outline comes back to.
    touches = len(sides) - len(np.unique(sides[:, 0], axis=0))
    if touches > _MOST_TOUCHES:
        raise _Unusable(
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
            raise _Unusable(
                f"an outline of '{name}' crosses itself more than {_MOST_CROSSINGS} times, so that nobody "
                "can say what is inside: draw it again"
            )
