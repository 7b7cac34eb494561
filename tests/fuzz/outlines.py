"""Outlines written in every format, and what may be wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import quoteattr

import numpy as np

__all__ = ["SPOILT", "WRITERS", "Outline", "star"]

Rng = np.random.Generator
Outline = list[list[float]]


def star(rng: Rng, x: float, y: float, radius: float, corners: int) -> Outline:
    """A polygon round (x, y) that does not cross itself."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    radii = rng.uniform(0.6, 1, corners) * radius
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return [[round(value, 2) for value in point] for point in points.tolist()]


def imagescope(regions: Sequence[tuple[str, Outline]]) -> str:
    parts = ['<?xml version="1.0"?><Annotations MicronsPerPixel="0.5">']
    for number, (name, points) in enumerate(regions, 1):
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        parts.append(
            f'<Annotation Id="{number}" Name={quoteattr(name)}><Regions><Region Id="1" NegativeROA="0">'
            f"<Vertices>{vertices}</Vertices></Region></Regions></Annotation>"
        )
    return "".join([*parts, "</Annotations>"])


def asap(regions: Sequence[tuple[str, Outline]]) -> str:
    parts = ['<?xml version="1.0"?><ASAP_Annotations><Annotations>']
    for number, (name, points) in enumerate(regions):
        corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
        parts.append(
            f'<Annotation Name="a{number}" Type="Polygon" PartOfGroup={quoteattr(name)} Color="#F4FA58">'
            f"<Coordinates>{corners}</Coordinates></Annotation>"
        )
    groups = "".join(f"<Group Name={quoteattr(name)}/>" for name, _ in regions)
    groups = f"<AnnotationGroups>{groups}</AnnotationGroups>"
    return "".join([*parts, "</Annotations>", groups, "</ASAP_Annotations>"])


def halo(regions: Sequence[tuple[str, Outline]]) -> str:
    parts = ['<?xml version="1.0"?><Annotations>']
    for name, points in regions:
        vertices = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in points)
        parts.append(
            f'<Annotation LineColor="65535" Name={quoteattr(name)} Visible="True"><Regions>'
            f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'
            "</Regions></Annotation>"
        )
    return "".join([*parts, "</Annotations>"])


def ndpa(regions: Sequence[tuple[str, Outline]]) -> str:
    parts = ['<?xml version="1.0"?><annotations>']
    for number, (name, points) in enumerate(regions):
        corners = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in points)
        parts.append(
            f'<ndpviewstate id="{number}"><title>{name}</title><coordformat>nanometers</coordformat>'
            f'<annotation type="freehand" closed="1"><pointlist>{corners}</pointlist></annotation>'
            "</ndpviewstate>"
        )
    return "".join([*parts, "</annotations>"])


def geojson(regions: Sequence[tuple[str, Outline]]) -> str:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, points in regions
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


# Format -> (suffix, writer, whether its coordinates are level-0 pixels).
WRITERS: dict[str, tuple[str, Callable[[Sequence[tuple[str, Outline]]], str], bool]] = {
    "ImageScope": (".xml", imagescope, True),
    "ASAP": (".xml", asap, True),
    "GeoJSON": (".geojson", geojson, True),
    "HALO": (".xml", halo, True),
    "NDP.view": (".xml", ndpa, False),
}


def _coordinate(rng: Rng, text: str, points: Outline) -> str:
    """One coordinate, as it is written in `text`, becomes something else."""
    x = str(points[int(rng.integers(len(points)))][0])
    other = str(
        rng.choice(["nan", "inf", "-inf", "1e400", "1e12", "-5000", "", "abc", x.replace(".", ","), "0x10"])
    )
    return text.replace(x, other, 1)


def _entities(rng: Rng, text: str, points: Outline) -> str:
    """The billion laughs, or a file of this machine as a name."""
    if text.startswith("{"):
        return "[" * 100_000 + text
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    declared = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    name = str(rng.choice(["&l9;", "&f;"]))
    return text.replace("?>", f"?>{declared}", 1).replace('Name="', f'Name="{name}', 1)


def _nested(rng: Rng, text: str, points: Outline) -> str:
    depth = int(rng.choice([200, 5000, 200_000]))
    if text.startswith("{"):
        return text.replace('"Polygon"', '"MultiPolygon"').replace(
            '"coordinates": ', '"coordinates": ' + "[" * depth, 1
        )
    return text.replace("?>", "?>" + "<a>" * depth, 1)


def _cut(rng: Rng, text: str, points: Outline) -> str:
    return text[: int(len(text) * rng.random())]


def _letters(rng: Rng, text: str, points: Outline) -> str:
    place = int(rng.integers(len(text)))
    return (
        text[:place]
        + str(rng.choice(["<", ">", "&", '"', "\0", "\ufffe", "{", "]", "x"]))
        + text[place + 1 :]
    )


def _empty(rng: Rng, text: str, points: Outline) -> str:
    others = ["", "{}", "[]", "null", "<Annotations/>", "<ASAP_Annotations/>", "<annotations/>", "<svg/>"]
    others += ['{"type": "FeatureCollection", "features": []}', '{"type": "Feature"}', "{" * 50_000]
    return str(rng.choice(others))


SPOILT: tuple[Callable[[Rng, str, Outline], str], ...] = (
    _coordinate,
    _coordinate,
    _coordinate,
    _entities,
    _nested,
    _cut,
    _letters,
    _letters,
    _empty,
)
