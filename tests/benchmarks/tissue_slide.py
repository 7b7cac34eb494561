"""A large slide made of a real slide's own JPEG tiles, repeated: real tissue, no second compression."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

__all__ = ["write_tissue_slide"]

_TILE = 256


def write_tissue_slide(path: Path, source: Path, *, columns: int, rows: int, mpp: float = 0.25) -> Path:
    """Write an Aperio-like SVS of `columns` x `rows` tissue tiles of `source`, levels 1, 4, 16.

    `source` is a TIFF of 256-px JPEG tiles. Its fullest tiles (most bytes) are used, in their own order.
    """
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        sizes = np.array(page.databytecounts)
        across = -(-page.imagewidth // _TILE)
        chosen = sorted(np.argsort(sizes)[-len(sizes) // 3 :])
        inside = [i for i in chosen if i % across < across - 1 and i // across < len(sizes) // across - 1]
        handle = tiff.filehandle
        tiles = []
        for i in inside:
            handle.seek(page.dataoffsets[i])
            data = handle.read(page.databytecounts[i])
            tiles.append(page.jpegtables[:-2] + data[2:] if page.jpegtables else data)
    small = {factor: [_shrunk(tile, factor) for tile in tiles] for factor in (4, 8)}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            width, height = columns * _TILE // factor, rows * _TILE // factor
            writer.write(
                _level(tiles, small, (columns, rows), factor),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                description=f"Aperio Image Library\n{width}x{height}|AppMag = {10 / mpp:g}|MPP = {mpp}",
                metadata=None,
                software=False,
            )
    return path


def _shrunk(tile: bytes, factor: int) -> np.ndarray:
    side = _TILE // factor
    return np.asarray(simplejpeg.decode_jpeg(tile, min_width=side, min_height=side, min_factor=factor))


def _level(
    tiles: list[bytes], small: dict[int, list[np.ndarray]], size: tuple[int, int], factor: int
) -> Iterator[bytes]:
    columns, rows = size
    if factor == 1:
        yield from (tiles[i % len(tiles)] for i in range(columns * rows))
        return
    decoded = small[min(factor, 8)]
    step, side = factor // min(factor, 8), _TILE // factor
    for row in range(-(-rows // factor)):
        for column in range(-(-columns // factor)):
            picture = np.full((_TILE, _TILE, 3), 240, np.uint8)
            for y in range(min(factor, rows - row * factor)):
                for x in range(min(factor, columns - column * factor)):
                    index = ((row * factor + y) * columns + column * factor + x) % len(tiles)
                    picture[y * side : (y + 1) * side, x * side : (x + 1) * side] = decoded[index][
                        ::step, ::step
                    ]
            yield simplejpeg.encode_jpeg(picture, quality=85, colorsubsampling="420")
