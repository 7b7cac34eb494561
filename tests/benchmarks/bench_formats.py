"""Cutting DICOM and OME-Zarr slides into raw HDF5, one thread: wsitool against the libraries' own loops.

WSITOOL_TEST_DATA=... python tests/benchmarks/bench_formats.py [--tiles 24]

The slides are made on the spot of the tiles of a real DICOM series. MRXS is left out: no file is at hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import openslide
import pydicom
import zarr
from pydicom.encaps import encapsulate, generate_frames
from side_by_side import Claim, measure, peer_version, print_table

from wsitool.slides.spec import TileSpec
from wsitool.tiling.run import tile_slide

__all__ = ["candidates", "write_slides"]

_PATCH, _TILE = 224, 256
_CLAIMS = [
    Claim(ours="wsitool DICOM", peer="openslide loop DICOM", factor=4),
    Claim(ours="wsitool OME-Zarr", peer="zarr loop OME-Zarr", factor=4),
]


def write_slides(series: Path, folder: Path, *, tiles: int) -> tuple[Path, Path]:
    """A DICOM file and an OME-Zarr image, `tiles` x `tiles` whole tiles of the finest level of `series`."""
    dataset = pydicom.dcmread(series / "0.dcm")
    columns = -(-dataset.TotalPixelMatrixColumns // _TILE)
    stored = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    whole = [stored[i] for i in range(len(stored) - columns) if i % columns < columns - 1]
    frames = [whole[i % len(whole)] for i in range(tiles * tiles)]
    dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = tiles * _TILE
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = encapsulate(frames)
    (folder / "d").mkdir()
    dataset.save_as(folder / "d" / "s.dcm")
    group = zarr.open_group(str(folder / "s.zarr"), mode="w")
    side = tiles * _TILE
    array = group.create_array("0", shape=(3, side, side), chunks=(3, _TILE, _TILE), dtype=np.uint8)
    for number, frame in enumerate(frames):
        y, x = number // tiles * _TILE, number % tiles * _TILE
        array[:, y : y + _TILE, x : x + _TILE] = np.moveaxis(imagecodecs.jpeg8_decode(frame), 2, 0)
    axes = [{"name": "c", "type": "channel"}] + [{"name": axis, "type": "space"} for axis in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs.put({"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}})
    return folder / "d" / "s.dcm", folder / "s.zarr"


def candidates(dicom: Path, ngff: Path, folder: Path) -> dict[str, Callable[[], int]]:
    """Every contender by name; each returns the number of patches it wrote."""
    return {
        "openslide loop DICOM": lambda: _openslide_loop(dicom, folder),
        "wsitool DICOM": lambda: _wsitool(dicom, folder),
        "zarr loop OME-Zarr": lambda: _zarr_loop(ngff, folder),
        "wsitool OME-Zarr": lambda: _wsitool(ngff, folder),
    }


def _wsitool(slide: Path, folder: Path) -> int:
    result = tile_slide(slide, folder / "out", TileSpec(level=0, codec="raw", min_tissue=0), threads=1)
    if result.decoded_tiles != result.needed_tiles or result.unreadable:
        raise AssertionError(f"{result.decoded_tiles} decodes of {result.needed_tiles} tiles")
    return result.kept


@contextmanager
def _patches(folder: Path, number: int) -> Iterator[h5py.Dataset]:
    (folder / "out").mkdir()
    with h5py.File(folder / "out" / "loop.h5", "w") as file:
        yield file.create_dataset("patches", (number, _PATCH, _PATCH, 3), "u1", chunks=(1, _PATCH, _PATCH, 3))


def _openslide_loop(slide: Path, folder: Path) -> int:
    with openslide.OpenSlide(slide) as opened:
        columns, rows = (side // _PATCH for side in opened.dimensions)
        with _patches(folder, rows * columns) as data:
            for i in range(rows * columns):
                place = (i % columns * _PATCH, i // columns * _PATCH)
                data[i] = np.asarray(opened.read_region(place, 0, (_PATCH, _PATCH)).convert("RGB"))
    return rows * columns


def _zarr_loop(slide: Path, folder: Path) -> int:
    array = zarr.open_array(str(slide / "0"), mode="r")
    columns = array.shape[2] // _PATCH
    with _patches(folder, columns * columns) as data:
        for i in range(columns * columns):
            x, y = i % columns * _PATCH, i // columns * _PATCH
            data[i] = np.moveaxis(np.asarray(array[:, y : y + _PATCH, x : x + _PATCH]), 0, 2)
    return columns * columns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=24, help="side of the slides in tiles of 256 px")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    root = Path(os.environ.get("WSITOOL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = write_slides(root / "cases" / "slides" / "dicom_series", folder, tiles=arguments.tiles)
        out = folder / "out"
        rates = measure(
            candidates(*slides, folder),
            rounds=arguments.rounds,
            tidy=lambda: shutil.rmtree(out, ignore_errors=True),
        )
        versions = filter(None, (peer_version(name) for name in ("openslide-python", "zarr")))
        print_table(
            f"Patches of {_PATCH} px into raw HDF5, one thread ({', '.join(versions)})", rates, _CLAIMS
        )


if __name__ == "__main__":
    main()
