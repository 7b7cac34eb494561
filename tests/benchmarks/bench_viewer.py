"""How fast the viewer's tiles come, beside OpenSlide's DeepZoomGenerator encoding the same slide.

    python tests/benchmarks/bench_viewer.py [SLIDE]

Both in one process and one thread, turn by turn, over the tiles of full resolution.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openslide
from openslide.deepzoom import DeepZoomGenerator

from wsitool.slides.readers import open_slide
from wsitool.testing.synthetic import synthetic_slide
from wsitool.viewer.pyramid import Pyramid

_TILE, _ROUNDS = 256, 3


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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        path = given or synthetic_slide(Path(folder) / "a.svs", size=(4096, 4096), levels=(1,))
        cost = measure(path)
    for name, seconds in cost.items():
        tiles = 1e6 / seconds / _TILE**2
        print(f"{name:<10} {seconds * 1000:7.2f} CPU-ms a megapixel, {tiles:7.0f} tiles of 256 px a CPU-s")
    print(f"openslide / wsitool: {cost['openslide'] / cost['wsitool']:.1f}")


if __name__ == "__main__":
    main()
