"""Patches as GeoJSON that QuPath opens: one tile object each, with class and measurements."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file_in_parts
from wsitool.report.colors import Rgb, class_color

__all__ = ["class_colors", "collection_of", "tile_feature", "write_geojson"]


def class_colors(classes: Sequence[str]) -> dict[str, Rgb]:
    """A colour-blind-safe RGB colour for each class, in order."""
    return {name: class_color(index) for index, name in enumerate(classes)}


def write_geojson(
    path: str | Path,
    *,
    slide: str,
    coords: NDArray[np.int64],
    size_level0: float,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a FeatureCollection of squares in level-0 pixels (QuPath's frame).

    `coords` (N, 2) are corners, `probabilities` (N, K). Each feature is QuPath's object type "tile", of its
    most probable class, with every class's probability as a measurement. Ids depend on slide and place
    only, so that a second export updates the first. `about`, what is known of the whole slide, becomes the
    member "wsitool" of the collection. Features are written as they are made: memory does not
    grow with their number.
    """
    features = _features(slide, coords, round(size_level0), probabilities, classes)
    replace_file_in_parts(Path(path), collection_of(features, about))


def collection_of(
    features: Iterable[Mapping[str, Any]], about: Mapping[str, Any] | None = None
) -> Iterator[bytes]:
    """A FeatureCollection in pieces, a line for each feature; `about` becomes its member "wsitool"."""
    # NaN is no JSON, and QuPath's parser stops at it.
    member = "" if about is None else f'"wsitool":{json.dumps(about, allow_nan=False)},'
    yield f'{{"type":"FeatureCollection",{member}"features":['.encode()
    # The separator goes before each feature but the first, so that none follows the last.
    between = ""
    for feature in features:
        yield (between + json.dumps(feature, separators=(",", ":"))).encode()
        between = ",\n"
    yield b"]}\n"


def _features(
    slide: str,
    coords: NDArray[np.int64],
    side: int,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    colors = class_colors(classes)
    predicted = probabilities.argmax(axis=1)
    for index, corner in enumerate(coords):
        x, y = map(int, corner)
        measured = {
            f"p {name}": round(float(p), 6) for name, p in zip(classes, probabilities[index], strict=True)
        }
        # From the content, not random: QuPath replaces objects whose id it has.
        unique = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide}:{x}:{y}:{side}"))
        yield tile_feature(x, y, side, measured, classes[predicted[index]], colors) | {"id": unique}


def tile_feature(
    x: int,
    y: int,
    side: float,
    measured: Mapping[str, float],
    name: str | None,
    colors: Mapping[str, tuple[int, int, int]],
) -> dict[str, Any]:
    """A square of `side` level-0 pixels from its upper left corner, of class `name` (None for no class)."""
    properties: dict[str, Any] = {
        "objectType": "tile",
        # a list of name and value: QuPath before 0.4 reads only this, later ones read it too
        "measurements": [{"name": key, "value": value} for key, value in measured.items()],
    }
    if name is not None:
        properties["classification"] = {"name": name, "color": list(colors[name])}
    # Closed, as GeoJSON wants rings; y grows downwards, as in the slide.
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}
