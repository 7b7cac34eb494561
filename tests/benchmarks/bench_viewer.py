"""How fast the viewer's tiles come, beside OpenSlide's DeepZoomGenerator encoding the same slide.

    python tests/benchmarks/bench_viewer.py [SLIDE]

Both in one process and one thread, turn by turn, over the tiles of full resolution. Then how many tiles a
running `wsitool view` gives six connections; the client takes part of the machine.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import openslide
from openslide.deepzoom import DeepZoomGenerator

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slides
from wsitool.viewer.pyramid import Pyramid

_TILE, _ROUNDS = 256, 3
_CONNECTIONS, _TOKEN = 6, "0123456789abcdef"


def measure(path: Path, most: int = 400) -> dict[str, float]:
    """CPU-seconds a megapixel of both, at most `most` tiles each."""
    spent = {"wsitool": 0.0, "openslide": 0.0}
    pixels = {"wsitool": 0, "openslide": 0}
    for _ in range(_ROUNDS):
        for name, tiles in (("wsitool", _ours(path, most)), ("openslide", _theirs(path, most))):
            for size, make in tiles:
                began = time.process_time()
                make()
                spent[name] += time.process_time() - began
                pixels[name] += size
    return {name: spent[name] / pixels[name] * 1e6 for name in spent}


def _ours(path: Path, most: int) -> list[tuple[int, Callable[[], object]]]:
    pyramid = Pyramid(open_slide(path))
    view = pyramid.levels[0]
    places = [
        (column, row)
        for row in range(-(-view.height // view.tile_height))
        for column in range(-(-view.width // view.tile_width))
    ]
    size = view.tile_width * view.tile_height
    return [(size, lambda place=place: pyramid.tile(0, *place)) for place in places[:most]]


def _theirs(path: Path, most: int) -> list[tuple[int, Callable[[], object]]]:
    zoom = DeepZoomGenerator(openslide.OpenSlide(path), tile_size=_TILE, overlap=0, limit_bounds=False)
    level = zoom.level_count - 1
    columns, rows = zoom.level_tiles[level]

    def make(place: tuple[int, int]) -> None:
        # As its example server in Flask does it.
        zoom.get_tile(level, place).save(io.BytesIO(), "jpeg", quality=75)

    places = [(column, row) for row in range(rows) for column in range(columns)]
    return [(_TILE * _TILE, lambda place=place: make(place)) for place in places[:most]]


def http_rate(path: Path, most: int = 1200) -> float:
    """Tiles a second, by the wall, of a server of its own over loopback."""
    with tempfile.TemporaryDirectory() as folder:
        # A collection is what the page lists; how it is cut does not matter here.
        spec = TileSpec(level=0, patch_size=_TILE, stride=4 * _TILE, min_tissue=0, codec="raw")
        tile_slides(path, Path(folder, "stores"), spec)
        command = [sys.executable, "-m", "wsitool", "view", folder, str(path.parent), "--no-browser"]
        with subprocess.Popen([*command, "--token", _TOKEN], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            match = re.search(r":(\d+)/", server.stdout.readline())
            assert match is not None
            try:
                return _asked_for(int(match[1]), most)
            finally:
                server.terminate()


def _asked_for(port: int, most: int) -> float:
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        slide = json.loads(_get(connection, "/api/library"))["slides"][0]["id"]
        view = json.loads(_get(connection, f"/api/slides/{slide}"))["levels"][0]
    columns, rows = -(-view["width"] // view["tile_width"]), -(-view["height"] // view["tile_height"])
    places = [(column, row) for row in range(rows) for column in range(columns)][:most]

    def take(some: list[tuple[int, int]]) -> None:
        with closing(HTTPConnection("127.0.0.1", port)) as connection:
            for column, row in some:
                _get(connection, f"/api/slides/{slide}/tiles/0/{column}/{row}")

    began = time.perf_counter()
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(take, [places[first::_CONNECTIONS] for first in range(_CONNECTIONS)]))
    return len(places) / (time.perf_counter() - began)


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"Cookie": f"wsitool-view={_TOKEN}"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        path = given or synthetic_slide(Path(folder) / "a.svs", size=(4096, 4096), levels=(1,))
        cost, rate = measure(path), http_rate(path)
    for name, seconds in cost.items():
        tiles = 1e6 / seconds / _TILE**2
        print(f"{name:<10} {seconds * 1000:7.2f} CPU-ms a megapixel, {tiles:7.0f} tiles of 256 px a CPU-s")
    print(f"openslide / wsitool: {cost['openslide'] / cost['wsitool']:.1f} (at least 4)")
    print(f"over HTTP: {rate:.0f} tiles a second (at least 300 on two idle cores)")


if __name__ == "__main__":
    main()
