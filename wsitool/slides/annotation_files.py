"""Reading outlines drawn in ImageScope, HALO, QuPath, ASAP and NDP.view, told apart by content.

Coordinates are level-0 pixels, but for NDP.view's, which the slide turns into such (`Annotations.on`).
QuPath writes GeoJSON, a FeatureCollection, one bare Feature, or a list of Features; the class is
`properties.classification.name`. What the others write is in `annotation_xml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
import shapely
from defusedxml import DefusedXmlException
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from wsitool.base.text_files import decode_text, read_bytes
from wsitool.errors import LabelError
from wsitool.slides.annotation_xml import from_asap, from_imagescope, from_ndpview, names_of, number
from wsitool.slides.outlines import Dropped, Outlines, Region, Unusable, ellipse
from wsitool.slides.slide import SlideInfo
from wsitool.slides.vertex_runs import JSON_RUN, lift_json, lift_xml

__all__ = ["ANNOTATION_SUFFIXES", "Annotations", "Dropped", "Region", "read_annotations"]

Ring = NDArray[np.float64]

# NDP.view keeps the slide's own suffix.
ANNOTATION_SUFFIXES = (".xml", ".geojson", ".json", ".annotations", ".ndpa", ".ndpi.ndpa")
_OFFSETS = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")
_NO_AREAS = {"Point": "a point", "MultiPoint": "points", "LineString": "a line", "MultiLineString": "lines"}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The regions of one file, and what of it is none (points, lines, outlines of nothing).

    `mpp` is what the file says of the slide, um per pixel; `unit` "nm" means nanometres from the slide's
    centre instead of level-0 pixels.
    """

    format: str
    regions: tuple[Region, ...]
    dropped: tuple[Dropped, ...] = ()
    mpp: float | None = None
    unit: Literal["px", "nm"] = "px"

    @property
    def skipped(self) -> int:
        """How many things were dropped."""
        return sum(one.count for one in self.dropped)

    def on(self, slide: SlideInfo) -> Annotations:
        """The same in level-0 pixels of its slide; LabelError where the slide does not say how they lie."""
        if self.unit == "px":
            return self
        texts = [slide.properties.get(name, "") for name in _OFFSETS]
        sides = [slide.properties.get(f"openslide.mpp-{axis}", slide.mpp or 0) for axis in "xy"]
        try:
            offset, nm_per_px = np.array([*map(float, texts)]), np.array([*map(float, sides)]) * 1000
        except ValueError:
            offset = nm_per_px = np.full(2, np.nan)
        if not (np.isfinite(offset).all() and (nm_per_px > 0).all()):
            raise LabelError(
                f"Outlines of NDP.view are in nanometres from the slide's centre, and '{slide.name}' (read "
                f"by {slide.reader}) does not say where that is or how large its pixels are: lay them over "
                "the NDPI slide itself, or convert them to GeoJSON in level-0 pixels."
            )
        middle = np.array([slide.width, slide.height]) / 2
        regions = [
            replace(one, area=shapely.transform(one.area, lambda xy: (xy - offset) / nm_per_px + middle))
            for one in self.regions
        ]
        return replace(self, regions=tuple(regions), mpp=float(nm_per_px.mean()) / 1000, unit="px")


def read_annotations(path: str | Path) -> Annotations:
    """Read a file of any of the formats, told apart by content; LabelError if it is none of them.

    Outlines that cross themselves are mended by the even-odd rule. LabelError too for damaged files,
    coordinates that are not finite or beyond any slide, and outlines that cross themselves thousands of
    times.

    >>> annotations = wsitool.read_annotations("outlines.geojson")
    >>> [region.names[0] for region in annotations.regions]
    ['tumor']
    """
    path = Path(path)
    data = read_bytes(path, what="annotations", error=LabelError)
    try:
        # UTF-16 has a NUL in every letter, either kind may begin with a byte order mark.
        if data[:16].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
            return _from_xml(path, data)
        return _from_geojson(path, *_json(data))
    # In this order: damage first, as several of these are ValueErrors.
    except (ParseError, DefusedXmlException, json.JSONDecodeError, RecursionError, _Undecodable) as error:
        raise LabelError(f"The annotations '{path}' are damaged: {error}.") from error
    except Unusable as error:
        raise LabelError(f"The annotations '{path}' cannot be used: {error}.") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, ShapelyError) as error:
        raise LabelError(
            f"The annotations '{path}' do not have the expected structure ({error}): export them again from "
            "ImageScope, HALO, QuPath, ASAP or NDP.view."
        ) from error


class _Undecodable(ValueError):
    """The bytes are no text."""


def _json(data: bytes) -> tuple[Any, Sequence[Ring]]:
    """The document, and the runs of vertices that stand for themselves in it by number."""
    lifted = lift_json(data)
    if lifted.runs:
        try:
            return json.loads(_text(lifted.rest)), lifted.runs
        except ValueError:
            pass  # lists within a text, or damage: by the plain way, which says where
    return json.loads(_text(data)), ()


def _text(data: bytes) -> str:
    try:
        return decode_text(data)[0]
    except ValueError as error:
        raise _Undecodable(str(error)) from error


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


def _from_xml(path: Path, data: bytes) -> Annotations:
    lifted = lift_xml(data)
    root = _xml(lifted.rest)
    if root.tag == "Annotations":
        is_halo = root.find("Annotation/Regions/Region/Vertices/V") is not None or b"<V " in data[:100_000]
        kind = "HALO XML" if is_halo else "ImageScope XML"
        return _read(kind, from_imagescope(root, lifted.runs), mpp=_mpp(root.get("MicronsPerPixel")))
    if root.tag == "ASAP_Annotations":
        return _read("ASAP XML", from_asap(root, lifted.runs))
    if root.tag == "annotations" and root.find("ndpviewstate") is not None:
        return replace(_read("NDP.view XML", from_ndpview(root)), unit="nm")
    raise LabelError(
        f"'{path}' is neither ImageScope or HALO XML (root Annotations) nor ASAP XML (root "
        f"ASAP_Annotations) nor of NDP.view (root annotations), its root is {root.tag}."
    )


def _read(kind: str, outlines: Outlines, mpp: float | None = None) -> Annotations:
    return Annotations(format=kind, regions=tuple(outlines.regions), dropped=outlines.dropped, mpp=mpp)


def _mpp(text: str | None) -> float | None:
    try:
        value = number(text or "")
    except Unusable:
        return None
    return value if 0 < value < np.inf else None


def _from_geojson(path: Path, document: Any, runs: Sequence[Ring]) -> Annotations:
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
    outlines = Outlines()
    for feature in features:
        properties = feature.get("properties") or {}
        names = _geojson_names(properties)
        # Parts of one feature may overlap; together they are one area.
        areas = _geojson_areas(feature.get("geometry"), names[0], outlines, runs)
        kinds = (properties.get("objectType"), properties.get("object_type"))
        outlines.add(names, areas, tile="tile" in kinds)
    return _read("GeoJSON", outlines)


def _geojson_areas(
    geometry: dict[str, Any] | None, name: str, outlines: Outlines, runs: Sequence[Ring]
) -> list[shapely.Geometry]:
    """The areas of one geometry; whatever has none is dropped."""
    kind = (geometry or {}).get("type")
    if geometry is None or kind is None:
        outlines.drop(name, "without a geometry")
        return []
    if kind == "GeometryCollection":
        parts = [_geojson_areas(part, name, outlines, runs) for part in geometry["geometries"]]
        return [area for part in parts for area in part]
    if kind not in ("Polygon", "MultiPolygon"):
        outlines.drop(name, _NO_AREAS.get(kind, f"of the kind {kind}"))
        return []
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    areas: list[shapely.Geometry | None] = []
    for polygon in polygons:
        rings = [_ring(ring, runs) for ring in polygon] or [np.empty((0, 2))]
        # QuPath's mark of what was drawn as an ellipse, whose outline may be no more than its extremes.
        first = ellipse(rings[0]) if geometry.get("isEllipse") is True and len(rings[0]) > 1 else rings[0]
        areas.append(outlines.area(first, name, holes=rings[1:]))
    return [area for area in areas if area is not None]


def _ring(points: Any, runs: Sequence[Ring]) -> Ring:
    if isinstance(points, dict):
        return runs[points[JSON_RUN]]
    return np.asarray(points, np.float64)[:, :2] if len(points) else np.empty((0, 2))


def _geojson_names(properties: dict[str, Any]) -> tuple[str, ...]:
    classification = properties.get("classification") or ""
    if isinstance(classification, dict):
        # "names" is what QuPath writes for a class with subclasses, the widest first.
        parts = [str(part) for part in classification.get("names") or ()]
        # The whole path first, then the widest class: a label map may name either.
        classes = [str(classification.get("name") or ""), ": ".join(parts), *parts[:1]]
    else:
        classes = [str(classification)]
    return names_of(*classes, str(properties.get("name") or ""))
