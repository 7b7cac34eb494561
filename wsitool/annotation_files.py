"""Reading outlines drawn in ImageScope, QuPath and ASAP; all coordinates are level-0 pixels.

* Aperio ImageScope XML: `Annotations/Annotation[@Id,@Name]/Regions/Region[@NegativeROA]` with
  `Vertices/Vertex[@X,@Y]`; a region with NegativeROA=1 is a hole in the others of its Annotation.
* QuPath GeoJSON: a FeatureCollection, one bare Feature, or a list of Features; the class is
  `properties.classification.name`.
* ASAP XML: `ASAP_Annotations/Annotations/Annotation[@Name,@Type,@PartOfGroup]` with
  `Coordinates/Coordinate[@Order,@X,@Y]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
import shapely
from defusedxml import DefusedXmlException

from wsitool.errors import LabelError

__all__ = ["ANNOTATION_SUFFIXES", "Annotations", "Region", "read_annotations"]

ANNOTATION_SUFFIXES = (".xml", ".geojson", ".json")
_ASAP_OUTLINES = frozenset({"polygon", "spline", "rectangle"})
_IMAGESCOPE_ELLIPSE = "2"


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


def read_annotations(path: str | Path) -> Annotations:
    """Read a file of any of the three formats, told apart by content; LabelError if it is none of them."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".xml":
            return _from_xml(path, defusedxml.ElementTree.parse(path).getroot())
        return _from_geojson(path, json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise LabelError(f"The annotations '{path}' cannot be read: {error.strerror or error}.") from error
    except (
        ParseError,
        DefusedXmlException,
        UnicodeDecodeError,
        json.JSONDecodeError,
        RecursionError,
    ) as error:
        raise LabelError(f"The annotations '{path}' are damaged: {error}.") from error
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        shapely.errors.ShapelyError,
    ) as error:
        raise LabelError(
            f"The annotations '{path}' do not have the expected structure ({error}): export them again from "
            "ImageScope, QuPath or ASAP."
        ) from error


def _from_xml(path: Path, root: Element) -> Annotations:
    if root.tag == "Annotations":
        return _from_imagescope(root)
    if root.tag == "ASAP_Annotations":
        return _from_asap(root)
    raise LabelError(
        f"'{path}' is neither ImageScope XML (root Annotations) nor ASAP XML (root ASAP_Annotations), "
        f"its root is {root.tag}."
    )


def _from_imagescope(root: Element) -> Annotations:
    regions: list[Region] = []
    skipped = 0
    for annotation in root.iterfind("Annotation"):
        attributes = [item.get("Name", "") for item in annotation.iterfind("Attributes/Attribute")]
        names = _names(annotation.get("Name", ""), *attributes, annotation.get("Id", ""))
        solid: list[shapely.Geometry] = []
        holes: list[shapely.Geometry] = []
        for region in annotation.iterfind("Regions/Region"):
            points = [
                (float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iterfind("Vertices/Vertex")
            ]
            outline = _imagescope_outline(region, points)
            if outline is None:
                skipped += 1
            else:
                (holes if region.get("NegativeROA", "0") == "1" else solid).append(outline)
        hole = shapely.union_all(holes)
        cut = (outline.difference(hole) if holes else outline for outline in solid)
        regions += [Region(names=names, area=area) for area in cut if not area.is_empty]
    return Annotations(format="ImageScope XML", regions=tuple(regions), skipped=skipped)


def _imagescope_outline(region: Element, points: list[tuple[float, float]]) -> shapely.Geometry | None:
    if len(points) == 2 and region.get("Type") == _IMAGESCOPE_ELLIPSE:
        (x0, y0), (x1, y1) = points  # corners of the box around it
        angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
        x = (x0 + x1) / 2 + abs(x1 - x0) / 2 * np.cos(angle)
        y = (y0 + y1) / 2 + abs(y1 - y0) / 2 * np.sin(angle)
        points = list(zip(x.tolist(), y.tolist(), strict=True))
    return _polygon(points)


def _from_asap(root: Element) -> Annotations:
    regions: list[Region] = []
    skipped = 0
    for annotation in root.iterfind("Annotations/Annotation"):
        coordinates = sorted(
            annotation.iterfind("Coordinates/Coordinate"), key=lambda c: int(float(c.get("Order", "0")))
        )
        outline = _polygon([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in coordinates])
        if outline is None or annotation.get("Type", "Polygon").lower() not in _ASAP_OUTLINES:
            skipped += 1
            continue
        group = annotation.get("PartOfGroup", "")
        names = _names("" if group == "None" else group, annotation.get("Name", ""))
        regions.append(Region(names=names, area=outline))
    return Annotations(format="ASAP XML", regions=tuple(regions), skipped=skipped)


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
        outlines = _geojson_polygons(feature.get("geometry") or {})
        if not outlines:
            skipped += 1
            continue
        area = shapely.union_all(outlines)
        regions.append(Region(names=_geojson_names(feature.get("properties") or {}), area=area))
    return Annotations(format="GeoJSON", regions=tuple(regions), skipped=skipped)


def _geojson_polygons(geometry: dict[str, Any]) -> list[shapely.Geometry]:
    kind = geometry.get("type")
    if kind == "Polygon":
        polygons = [geometry["coordinates"]]
    elif kind == "MultiPolygon":
        polygons = geometry["coordinates"]
    elif kind == "GeometryCollection":
        return [outline for part in geometry["geometries"] for outline in _geojson_polygons(part)]
    else:
        return []
    outlines = (_polygon(rings[0], holes=rings[1:]) for rings in polygons if rings)
    return [outline for outline in outlines if outline is not None]


def _geojson_names(properties: dict[str, Any]) -> tuple[str, ...]:
    found = properties.get("classification") or ""
    name = found.get("name", "") if isinstance(found, dict) else found
    return _names(str(name or ""), str(properties.get("name") or ""))


def _names(*names: str) -> tuple[str, ...]:
    """The names that are not empty, each once."""
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip())) or ("unnamed",)


def _polygon(
    points: Sequence[Sequence[float]], *, holes: Sequence[Sequence[Sequence[float]]] = ()
) -> shapely.Geometry | None:
    """A valid area from rings of x, y; None where there is no area (a point, a line)."""
    if len(points) < 3:
        return None
    rings = [np.asarray(ring, np.float64)[:, :2] for ring in (points, *holes) if len(ring) >= 3]
    if not all(np.isfinite(ring).all() for ring in rings):
        raise ValueError("a coordinate is not a finite number")
    drawn = shapely.Polygon(rings[0], rings[1:])
    # Outlines drawn by hand cross themselves; what make_valid leaves besides areas is lines.
    valid = drawn if drawn.is_valid else shapely.make_valid(drawn)
    parts = [part for part in shapely.get_parts(valid, return_index=False) if part.area > 0]
    areas = [part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(areas) if areas else None
