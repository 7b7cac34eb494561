"""Outlines: patches labelled by thousands of them, files of a million vertices, beside plain loops.

    python tests/benchmarks/bench_annotations.py

prints seconds, memory and ratios: 100,000 patches against 5,000 outlines beside a loop over patches with
shapely's index, and files of 10^6 vertices beside json.loads and ElementTree with a loop over vertices.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray

from wsitool.slides.annotations import LabelMap, Region, label_patches, read_annotations

T = TypeVar("T")
SIDE = 316  # level-0 pixels of a patch; 316 x 316 of them lie on the slide
CLASSES = ("c0", "c1", "c2")


def outlines(count: int, patches: int) -> list[Region]:
    """Outlines of 40 vertices, of three classes in turn: glands of 150 to 250 px, some overlapping."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    regions = []
    for number, center in enumerate(rng.uniform(0, SIDE * patches**0.5, (count, 2))):
        ring = center + rng.uniform(150, 250, (40, 1)) * around
        regions.append(Region(names=(CLASSES[number % 3],), area=shapely.Polygon(ring)))
    return regions


def grid(patches: int) -> NDArray[np.int64]:
    """The corners (patches, 2) of a grid without gaps."""
    along = np.arange(int(patches**0.5)) * SIDE
    return np.stack(np.meshgrid(along, along), axis=2).reshape(-1, 2)


def by_loop(regions: list[Region], coords: NDArray[np.int64]) -> NDArray[np.int16]:
    """What `label_patches` gives, patch by patch: the regions it meets, painted over each other."""
    layers = [CLASSES.index(region.names[0]) for region in regions]
    index = shapely.STRtree([region.area for region in regions])
    labels = np.full(len(coords), -1, np.int16)
    for row, (x, y) in enumerate(coords.tolist()):
        box = shapely.box(x, y, x + SIDE, y + SIDE)
        above, shares = shapely.Polygon(), np.zeros(len(CLASSES))
        hits = index.query(box, predicate="intersects").tolist()
        for layer in (2, 1, 0):
            area = shapely.union_all([regions[hit].area for hit in hits if layers[hit] == layer])
            area = area.intersection(box)
            shares[layer] = area.difference(above).area / SIDE**2
            above = above.union(area)
        if shares.max() >= 0.5 - 1e-9:
            labels[row] = shares.argmax()
    return labels


def compare_labels(patches: int, count: int) -> dict[str, float]:
    """Seconds of both ways, which must agree."""
    regions, coords = outlines(count, patches), grid(patches)
    label_map = LabelMap(entries=tuple((name, name) for name in CLASSES))
    ours, ours_s = _timed(lambda: label_patches(regions, label_map, CLASSES, coords, float(SIDE)))
    plain, plain_s = _timed(lambda: by_loop(regions, coords))
    np.testing.assert_array_equal(ours, plain)
    return {"wsitool": ours_s, "loop": plain_s, "labelled": float((ours >= 0).sum())}


def compare_reading(vertices: int, kind: str) -> dict[str, float]:
    """Seconds of both ways, and megabytes that ours took at most."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = 40_000 + 2000 * np.sin(97 * angle)
    ring = np.round(60_000 + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), 4)
    with TemporaryDirectory() as folder:
        path = Path(folder, f"a.{kind}")
        path.write_text(_geojson(ring) if kind == "geojson" else _xml(ring))
        found, ours_s = _timed(lambda: read_annotations(path))
        plain, plain_s = _timed(lambda: _plain_json(path) if kind == "geojson" else _plain_xml(path))
        tracemalloc.start()
        read_annotations(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    np.testing.assert_array_equal(shapely.get_coordinates(found.regions[0].area)[:-1], plain)
    return {"wsitool": ours_s, "loop": plain_s, "MB": peak / 1e6}


def _geojson(ring: NDArray[np.float64]) -> str:
    return json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]}})


def _xml(ring: NDArray[np.float64]) -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring.tolist())
    region = f"<Regions><Region><Vertices>{vertices}</Vertices></Region></Regions>"
    return f'<Annotations><Annotation Id="1">{region}</Annotation></Annotations>'


def _plain_json(path: Path) -> NDArray[np.float64]:
    return np.array(json.loads(path.read_text())["geometry"]["coordinates"][0])


def _plain_xml(path: Path) -> NDArray[np.float64]:
    root = ElementTree.parse(path).getroot()
    return np.array([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in root.iter("Vertex")])


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    # Of this process: what else the machine does is not the way's fault.
    began = time.process_time()
    return run(), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--outlines", type=int, default=5000)
    parser.add_argument("--vertices", type=int, default=1_000_000)
    given = parser.parse_args()
    rows = {f"{given.patches:,} patches x {given.outlines:,}": compare_labels(given.patches, given.outlines)}
    for kind in ("geojson", "xml"):
        rows[f"{given.vertices:,} vertices, {kind}"] = compare_reading(given.vertices, kind)
    for name, row in rows.items():
        memory = f", {row['MB']:.0f} MB" if "MB" in row else ""
        ratio = row["loop"] / row["wsitool"]
        print(f"{name}: {row['wsitool']:.2f} s, plain loop {row['loop']:.2f} s, {ratio:.1f} times{memory}")


if __name__ == "__main__":
    main()
