"""Small slides and pictures of every layout the readers claim, and the pixels that each of them holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["BASES", "HEIGHT", "PICTURES", "TILE", "WIDTH", "build_slides", "read_base", "true_pixels"]

WIDTH, HEIGHT, TILE = 300, 260, 128
Rgb = NDArray[np.uint8]

_SVS = {"jpeg.svs": ("jpeg", (1, 2)), "jpeg2000.svs": ("jpeg2000", (1,)), "none.svs": ("none", (1, 2))}
_TILED = {"tile": (TILE, TILE), "photometric": "rgb"}
_STRIPS = {"rowsperstrip": 48, "photometric": "rgb"}
_TIFF: dict[str, dict[str, object]] = {
    "lzw.tif": _TILED | {"compression": "lzw", "predictor": True},
    "deflate.tif": _TILED | {"compression": "zlib"},
    "jpeg.tif": _TILED | {"compression": "jpeg"},
    "strips.tif": _STRIPS,
    "strips-lzw.tif": _STRIPS | {"compression": "lzw"},
    "strips-deflate.tif": _STRIPS | {"compression": "zlib", "predictor": True},
    "strips-jpeg.tif": _STRIPS | {"compression": "jpeg"},
    "planar-tiles.tif": _TILED | {"compression": "zlib", "planarconfig": "separate"},
    "planar-strips.tif": _STRIPS | {"planarconfig": "separate"},
    "planar-deep.tif": _TILED | {"compression": "zlib", "predictor": True, "planarconfig": "separate"},
    "deep-tiles.tif": _TILED | {"compression": "zlib"},
    "deep-strips.tif": _STRIPS,
    "grey.tif": _TILED | {"compression": "jpeg", "photometric": "minisblack"},
    "grey-strips.tif": _STRIPS | {"compression": "lzw", "photometric": "minisblack"},
}
PICTURES = ("picture.png", "palette.png", "grey.png", "picture.jpg", "picture.webp", "picture.bmp")
BASES = (*_SVS, *_TIFF, "big.tif", "motorola.tif", "pyramid.ome.tif", *PICTURES)


def build_slides(folder: Path) -> None:
    """Write every base and, beside it, its pixels as they must be read: (HEIGHT, WIDTH, 3) uint8."""
    pixels = draw_tissue(WIDTH, HEIGHT, kind="adh", seed=7, glass=0.1)
    gray = pixels.mean(axis=2).astype(np.uint8)
    for name, (compression, levels) in _SVS.items():
        write_pyramid(folder / name, pixels, tile=TILE, compression=compression, levels=levels)  # type: ignore[arg-type]
    for name, options in _TIFF.items():
        tifffile.imwrite(folder / name, _arranged(name, pixels, gray), metadata=None, **options)
    tiles = {**_TILED, "compression": "zlib", "metadata": None}
    tifffile.imwrite(folder / "big.tif", pixels, bigtiff=True, **tiles)
    tifffile.imwrite(folder / "motorola.tif", pixels, byteorder=">", **{**tiles, "compression": None})
    _ome(folder / "pyramid.ome.tif", pixels)
    for name in PICTURES:
        picture = Image.fromarray(gray if name == "grey.png" else pixels)
        if name == "palette.png":
            picture = picture.quantize(64)
        picture.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    for name in BASES:
        np.save(folder / f"{name}.npy", _decoded(folder / name, pixels))


def _arranged(name: str, pixels: Rgb, gray: Rgb) -> NDArray[np.generic]:
    if name.startswith("grey"):
        return gray
    deep = pixels.astype(np.uint16) << 8 | np.uint16(37)
    chosen: NDArray[np.generic] = deep if "deep" in name else pixels
    return np.moveaxis(chosen, -1, 0) if name.startswith("planar") else chosen


def _ome(path: Path, pixels: Rgb) -> None:
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, subifds=1, metadata={"axes": "YXS"} | sizes, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)


def _decoded(path: Path, pixels: Rgb) -> Rgb:
    """What a library other than the program's readers makes of the file, as 8-bit RGB."""
    if path.name in PICTURES:
        found = imagecodecs.imread(path) if path.suffix != ".bmp" else pixels
        if path.name == "palette.png":
            found = np.asarray(Image.open(path).convert("RGB"))
    else:
        found = tifffile.imread(path, key=0)
    if found.dtype == np.uint16:
        found = (found >> 8).astype(np.uint8)
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, axis=2)
    elif found.shape[0] == 3:
        found = np.moveaxis(found, 0, -1)
    assert found.shape == (HEIGHT, WIDTH, 3) and found.dtype == np.uint8, (path, found.shape, found.dtype)
    return np.ascontiguousarray(found)


@cache
def read_base(path: Path) -> bytes:
    return path.read_bytes()


@cache
def true_pixels(path: Path) -> Rgb:
    """The pixels of the base at `path`."""
    found: Rgb = np.load(path.with_name(f"{path.name}.npy"))
    return found
