"""Predictions as GeoJSON that QuPath opens: one tile object per patch, with class and measurements."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.report.files import replace_file_in_parts

__all__ = ["class_colours", "write_geojson"]

_COLOURS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)


def class_colours(classes: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """A colour-blind-safe RGB colour for each class, in order."""
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(classes)}


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
    replace_file_in_parts(Path(path), _collection(features, about))


def _collection(features: Iterator[dict[str, Any]], about: Mapping[str, Any] | None) -> Iterator[bytes]:
    member = "" if about is None else f'"wsitool":{json.dumps(about, allow_nan=False)},'
    yield f'{{"type":"FeatureCollection",{member}"features":['.encode()
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
    colours = class_colours(classes)
    called = probabilities.argmax(axis=1)
    for index, corner in enumerate(coords):
        x, y = map(int, corner)
        name = classes[called[index]]
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        # a list of name and value: QuPath before 0.4 reads only this, later ones read it too
        measured = [
            {"name": f"p {name_k}", "value": round(float(p), 6)}
            for name_k, p in zip(classes, probabilities[index], strict=True)
        ]
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide}:{x}:{y}:{side}")),
            "geometry": {"type": "Polygon", "coordinates": [corners]},
            "properties": {
                "objectType": "tile",
                "classification": {"name": name, "color": list(colours[name])},
                "measurements": measured,
            },
        }
