"""Patches and outlines as GeoJSON that QuPath opens, and reads back as the same objects.

Patches are QuPath's object type "tile"; each has an id, a class and measurements in one shape, whoever writes
them. What is no class of the user's is a subclass of "wsitool", by which it can be shown, hidden and
selected as a layer: "wsitool: tissue", "wsitool: rejected: pen". The tiles of a class that hardly leads are
its subclass "uncertain".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsitool.base.files import replace_file_in_parts
from wsitool.report.colors import GREY, Rgb, class_color
from wsitool.slides.contours import outlines_of

__all__ = [
    "OWN",
    "Tiles",
    "class_colors",
    "collection_of",
    "drawn_feature",
    "rejected_features",
    "tissue_features",
    "write_geojson",
]

Mask = NDArray[np.bool_]

OWN = "wsitool"
_TISSUE: Rgb = (0, 158, 115)
_DIGITS = 6


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
    least_lead: float = 0.0,
    tissue: tuple[Mask, tuple[float, float]] | None = None,
    about: Mapping[str, Any] | None = None,
    measured: Mapping[str, NDArray[np.floating]] | None = None,
) -> None:
    """Write a FeatureCollection of squares in level-0 pixels (QuPath's frame).

    `coords` (N, 2) are corners, `probabilities` (N, K). Each feature is QuPath's object type "tile", of its
    most probable class, with every class's probability as a measurement; of the class's subclass "uncertain"
    where that leads the next by less than `least_lead`. Before them comes the outline of `tissue`, a mask
    (h, w) and its downsample (fx, fy). Ids depend on slide and place only, so that a second export updates
    the first. `measured` (N,) are further measurements by name; `about`, what is known of the whole slide,
    becomes the member "wsitool" of the collection. Features are written as they are made: memory does not
    grow with their number.
    """

    def features() -> Iterator[dict[str, Any]]:
        if tissue is not None:
            yield from tissue_features(slide, *tissue)
        tiles = Tiles(slide, round(size_level0))
        yield from _predicted(tiles, coords, probabilities, classes, least_lead, measured or {})

    replace_file_in_parts(Path(path), collection_of(features(), about))


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


class Tiles:
    """Makes the squares of one slide, of `side` level-0 pixels."""

    def __init__(self, slide: str, side: float) -> None:
        self._slide, self._side = slide, side

    def feature(
        self, x: int, y: int, measured: Mapping[str, float], names: Sequence[str] = (), color: Rgb = GREY
    ) -> dict[str, Any]:
        """A square from its upper left corner, of the class `names`, the widest first; none for no class."""
        side = self._side
        properties: dict[str, Any] = {
            **_type("tile"),
            # a list of name and value: QuPath before 0.4 reads only this, later ones read it too
            "measurements": [{"name": key, "value": round(float(v), _DIGITS)} for key, v in measured.items()],
        }
        # Closed, as GeoJSON wants rings; y grows downwards, as in the slide.
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        # Of whole pixels: the same place has one id, whoever writes it.
        return _feature(f"{self._slide}:{x}:{y}:{round(side)}", geometry, properties, names, color)


def rejected_features(
    tiles: Tiles,
    coords: NDArray[np.int64],
    reason: NDArray[np.integer],
    reasons: Sequence[str],
    scores: Mapping[str, NDArray[np.floating]],
) -> Iterator[dict[str, Any]]:
    """A tile "wsitool: rejected: <reason>" for each of the positions (M,) whose `reason` is not 0."""
    for row in np.flatnonzero(reason).tolist():
        x, y = coords[row].tolist()
        measured = {name: values[row] for name, values in scores.items() if np.isfinite(values[row])}
        yield tiles.feature(x, y, measured, (OWN, "rejected", reasons[reason[row]]))


def tissue_features(slide: str, mask: Mask, downsample: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """An annotation "wsitool: tissue" for each area of `mask` (h, w), which --tissue mask:FILE takes back."""
    for number, area in enumerate(outlines_of(mask, downsample)):
        properties: dict[str, Any] = {**_type("annotation"), "name": f"tissue {number + 1}"}
        rings = [shapely.get_coordinates(ring).tolist() for ring in (area.exterior, *area.interiors)]
        geometry = {"type": "Polygon", "coordinates": rings}
        yield _feature(f"{slide}:tissue:{number}", geometry, properties, (OWN, "tissue"), _TISSUE)


def drawn_feature(
    slide: str, ring: Sequence[Sequence[int]], name: str, number: int, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """An annotation of the class `name`, its color by `number`, from a closed ring in level-0 pixels."""
    properties: dict[str, Any] = {**_type("annotation"), "metadata": dict(metadata)}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return _feature(f"{slide}:{name}:{ring}", geometry, properties, (name,), class_color(number))


def _type(kind: str) -> dict[str, str]:
    # QuPath before 0.4 knows only the second name, and takes what has none for an annotation.
    return {"objectType": kind, "object_type": kind}


def _feature(
    key: str, geometry: dict[str, Any], properties: dict[str, Any], names: Sequence[str], color: Rgb
) -> dict[str, Any]:
    # From the content, not random: QuPath replaces objects whose id it has.
    unique = str(uuid.uuid5(uuid.NAMESPACE_OID, key))
    if names:
        red, green, blue = color
        # QuPath before 0.4 reads the color as Java's signed number of alpha, red, green and blue.
        packed = (red << 16 | green << 8 | blue) - (1 << 24)
        classification: dict[str, Any] = {
            "name": ": ".join(names),
            "color": list(color),
            "colorRGB": packed,
        }
        # As QuPath writes classes with subclasses.
        classification |= {"names": list(names)} if len(names) > 1 else {}
        properties["classification"] = classification
    return {"type": "Feature", "id": unique, "geometry": geometry, "properties": properties}


def _predicted(
    tiles: Tiles,
    coords: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    least_lead: float,
    measured: Mapping[str, NDArray[np.floating]],
) -> Iterator[dict[str, Any]]:
    colors = class_colors(classes)
    # Numbers as Python's one at a time: a gigapixel has a hundred thousand patches.
    for row, (corner, p) in enumerate(zip(coords, probabilities, strict=True)):
        x, y = corner.tolist()
        name = classes[int(p.argmax())]
        first, second = (p.max(), np.partition(p, -2)[-2]) if len(p) > 1 else (1.0, 0.0)
        names, color = (name,), colors[name]
        if first - second < least_lead:
            # Paler, and still of its class.
            names, color = (name, "uncertain"), _paler(color)  # type: ignore[assignment]
        values = {f"p {one}": value for one, value in zip(classes, p, strict=True)}
        values |= {one: column[row] for one, column in measured.items()}
        yield tiles.feature(x, y, values, names, color)


def _paler(color: Rgb) -> Rgb:
    red, green, blue = ((one + 2 * 200) // 3 for one in color)
    return red, green, blue
