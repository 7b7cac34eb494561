"""Regions drawn by hand: a GeoJSON for each slide in one folder, that QuPath and `--annotations` read."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shapely

from wsitool.base.file_names import lone_file_name
from wsitool.base.files import check_writable, replace_file
from wsitool.base.json_files import read_json
from wsitool.base.lock import locked
from wsitool.base.sentences import unusable_output
from wsitool.errors import UsageError, WsitoolError
from wsitool.report.geojson import OWN, drawn_feature
from wsitool.slides.annotations import find_annotations

__all__ = ["Regions"]

_MOST_POINTS = 20_000
_FURTHEST = 10_000_000  # level-0 pixels: no slide is as large
_LONGEST_NAME = 100
_BUSY_SECONDS = 5.0
_MARK = {"drawn in": "wsitool view"}  # only what was drawn here is taken away here
Feature = dict[str, Any]


class Regions:
    """The regions of slides in `folder`, as <slide>.geojson; for any number of threads and processes.

    Each is on disk when `add` returns. What else is in a file stays in it. UsageError or WsitoolError where
    nothing can be written.
    """

    def __init__(self, folder: Path) -> None:
        check_writable(folder)
        self._folder, self._lock = folder, threading.Lock()

    def of(self, slide: str) -> list[dict[str, Any]]:
        """Id, class, color and rings of what is outlined, [[x, y], ...] each; QuPath's tiles are left out.

        WsitoolError where the slide's file cannot be read.
        """
        return _told(self._document(slide)["features"])

    def add(self, slide: str, name: object, ring: object) -> None:
        """Keep the outline `ring` [[x, y], ...] in level-0 pixels, of the class `name`; twice is as once.

        UsageError for what is no class or no outline, WsitoolError where it cannot be kept.
        """
        label, points = _class_of(name), _points_of(ring)
        with self._changing(slide) as features:
            names = list(dict.fromkeys(str(one["name"]) for one in _told(features)))
            number = names.index(label) if label in names else len(names)
            new = drawn_feature(slide, points, label, number, _MARK)
            if all(feature.get("id") != new["id"] for feature in features):
                features.append(new)

    def remove(self, slide: str, id: object) -> None:
        """Take away a region that was drawn here; UsageError for any other."""
        with self._changing(slide) as features:
            gone = [feature for feature in features if feature.get("id") == id and _is_own(feature)]
            if not gone:
                raise UsageError("Only regions that were drawn here are taken away here: use QuPath.")
            features.remove(gone[0])

    @contextmanager
    def _changing(self, slide: str) -> Iterator[list[Feature]]:
        """The slide's features, which are written as the block leaves them."""
        path = self._path(slide)
        other = find_annotations(self._folder, path.name.removesuffix(".geojson"))
        if other not in (None, path):
            raise UsageError(
                f"'{other.name}' in the folder of --regions annotates this slide already, and would be read "
                "in the place of what is drawn: give another folder."
            )
        with self._lock, locked(path, what=f"'{path}'", wait_seconds=_BUSY_SECONDS):
            document = self._document(slide)
            yield document["features"]
            data = json.dumps(document, separators=(",", ":"), allow_nan=False)
            try:
                replace_file(path, data.encode())
            except OSError as error:
                raise unusable_output(path, error) from error

    def _path(self, slide: str) -> Path:
        return self._folder / f"{lone_file_name(slide)}.geojson"

    def _document(self, slide: str) -> dict[str, Any]:
        """The FeatureCollection in the slide's file; an empty one where there is none."""
        path = self._path(slide)
        try:
            document = read_json(path) if path.exists() else []
        except (OSError, ValueError) as error:
            raise WsitoolError(f"'{path.name}' in the folder of --regions is damaged ({error}).") from None
        if isinstance(document, list):
            document = {"type": "FeatureCollection", "features": document}
        try:
            _told(document["features"])
        except (LookupError, TypeError, AttributeError):
            raise WsitoolError(
                f"'{path.name}' in the folder of --regions is no GeoJSON collection: move it away, or give "
                "another folder."
            ) from None
        return dict(document)


def _told(features: list[Feature]) -> list[dict[str, Any]]:
    """The areas among features, as people draw them."""
    told = []
    for feature in features:
        geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
        kind = geometry.get("type")
        is_tile = "tile" in (properties.get("objectType"), properties.get("object_type"))
        if kind not in ("Polygon", "MultiPolygon") or is_tile:
            continue
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        named = properties.get("classification") or {}
        named = named if isinstance(named, dict) else {"name": named}
        told.append(
            {
                "id": feature.get("id"),
                "name": str(named.get("name") or ""),
                "color": named.get("color"),
                "own": _is_own(feature),
                "rings": [ring for polygon in polygons for ring in polygon],
            }
        )
    return told


def _is_own(feature: Feature) -> bool:
    properties = feature.get("properties")
    return isinstance(properties, dict) and properties.get("metadata") == _MARK


def _class_of(name: object) -> str:
    text = name.strip() if isinstance(name, str) else ""
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable() or text.split(":")[0] == OWN:
        raise UsageError(
            f"A region needs a class of 1 to {_LONGEST_NAME} letters, none of '{OWN}', which is for layers."
        )
    return text


def _points_of(ring: object) -> list[list[int]]:
    """The ring in whole pixels, closed."""
    if not isinstance(ring, list) or not 3 <= len(ring) <= _MOST_POINTS or not all(map(_is_point, ring)):
        raise UsageError(f"An outline has 3 to {_MOST_POINTS:,} points on the slide.")
    points = [[round(x), round(y)] for x, y in ring]
    # Drawn by hand outlines cross themselves: as `--annotations` reads them, any area will do.
    if not shapely.make_valid(shapely.Polygon(points)).area:
        raise UsageError("The outline encloses nothing: draw it anew.")
    return points if points[0] == points[-1] else [*points, points[0]]


def _is_point(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(
            type(value) in (int, float) and math.isfinite(value) and abs(value) < _FURTHEST for value in point
        )
    )
