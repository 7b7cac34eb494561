"""Cutting DICOM, OME-Zarr and MRXS slides into raw HDF5, one thread: wsitool against the libraries' loops.

WSITOOL_TEST_DATA=... python tests/benchmarks/bench_formats.py [--columns 192] [--rows 16]

The slides are made on the spot of the tiles of a real DICOM series; by default they are 49,152 px wide, as
sections are at 20x. OpenSlide's own cache of 32 MiB then does not hold a row of tiles, and its loop decodes
most tiles twice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import openslide
import pydicom
import zarr
from mirax import Images, write_mirax
from pydicom.encaps import encapsulate, generate_frames
from side_by_side import Claim, CpuClock, measure, peer_version, print_table

from wsitool.slides.spec import TileSpec
from wsitool.tiling.run import tile_slide

__all__ = ["Slides", "candidates", "write_slides"]

_PATCH, _TILE = 224, 256
_CLAIMS = [
    Claim(ours="wsitool DICOM", peer="openslide loop DICOM", factor=4),
    Claim(ours="wsitool OME-Zarr", peer="zarr loop OME-Zarr", factor=4),
    Claim(ours="wsitool MRXS", peer="openslide loop MRXS", factor=1.2),
]


@dataclass(frozen=True, kw_only=True)
class Slides:
    """The same tiles in three formats."""

    dicom: Path
    ngff: Path
    mirax: Path


def write_slides(series: Path, folder: Path, *, columns: int, rows: int) -> Slides:
    """Slides of `columns` x `rows` whole tiles of the finest level of `series`, multiples of 8."""
    dataset = pydicom.dcmread(series / "0.dcm")
    across = -(-dataset.TotalPixelMatrixColumns // _TILE)
    stored = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    whole = [stored[i] for i in range(len(stored) - across) if i % across < across - 1]
    # Coarser levels serve to find tissue only: what their pixels show is of no account.
    levels = [
        {
            (x, y): whole[(y * (columns >> k) + x) % len(whole)]
            for y in range(rows >> k)
            for x in range(columns >> k)
        }
        for k in range(4)
    ]
    dicom, ngff = folder / "d" / "0.dcm", folder / "s.zarr"
    _write_dicom(dataset, [levels[0], levels[3]], dicom.parent)
    _write_ngff([levels[0], levels[3]], ngff)
    mirax = write_mirax(folder / "m.mrxs", levels, side=_TILE, grid=(columns, rows), mpp=0.5)
    return Slides(dicom=dicom, ngff=ngff, mirax=mirax)


def _write_dicom(dataset: pydicom.Dataset, levels: list[Images], folder: Path) -> None:
    folder.mkdir()
    for number, images in enumerate(levels):
        columns, rows = (side + 1 for side in max(images))
        dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = columns * _TILE, rows * _TILE
        dataset.NumberOfFrames = len(images)
        dataset.PixelData = encapsulate([images[x, y] for y in range(rows) for x in range(columns)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        if number:
            dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        dataset.save_as(folder / f"{number}.dcm")


def _write_ngff(levels: list[Images], folder: Path) -> None:
    group = zarr.open_group(str(folder), mode="w")
    for number, images in enumerate(levels):
        columns, rows = (side + 1 for side in max(images))
        shape, chunks = (3, rows * _TILE, columns * _TILE), (3, _TILE, _TILE)
        array = group.create_array(str(number), shape=shape, chunks=chunks, dtype=np.uint8)
        for (column, row), jpeg in images.items():
            y, x = row * _TILE, column * _TILE
            array[:, y : y + _TILE, x : x + _TILE] = np.moveaxis(imagecodecs.jpeg8_decode(jpeg), 2, 0)
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    scales = [{"type": "scale", "scale": [1.0, 0.5 * step, 0.5 * step]} for step in (1, 8)]
    datasets = [{"path": str(i), "coordinateTransformations": [scale]} for i, scale in enumerate(scales)]
    multiscale = {"axes": [{"name": "c", "type": "channel"}, *axes], "datasets": datasets}
    group.attrs.put({"ome": {"version": "0.5", "multiscales": [multiscale]}})


def candidates(slides: Slides, folder: Path) -> dict[str, Callable[[], int]]:
    """Every contender by name; each returns the number of patches it wrote."""
    return {
        "openslide loop DICOM": lambda: _openslide_loop(slides.dicom, folder),
        "wsitool DICOM": lambda: _wsitool(slides.dicom, folder),
        "zarr loop OME-Zarr": lambda: _zarr_loop(slides.ngff, folder),
        "wsitool OME-Zarr": lambda: _wsitool(slides.ngff, folder),
        "openslide loop MRXS": lambda: _openslide_loop(slides.mirax, folder),
        "wsitool MRXS": lambda: _wsitool(slides.mirax, folder),
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
    rows, columns = (side // _PATCH for side in array.shape[1:])
    with _patches(folder, rows * columns) as data:
        for i in range(rows * columns):
            x, y = i % columns * _PATCH, i // columns * _PATCH
            data[i] = np.moveaxis(np.asarray(array[:, y : y + _PATCH, x : x + _PATCH]), 0, 2)
    return rows * columns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=192, help="width of the slides in tiles of 256 px")
    parser.add_argument("--rows", type=int, default=16, help="their height in tiles")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    root = Path(os.environ.get("WSITOOL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        series = root / "cases" / "slides" / "dicom_series"
        slides = write_slides(series, folder, columns=arguments.columns, rows=arguments.rows)
        out = folder / "out"
        cpu = CpuClock()
        contenders = {name: cpu.clocked(name, run) for name, run in candidates(slides, folder).items()}
        rates = measure(
            contenders,
            rounds=arguments.rounds,
            tidy=lambda: shutil.rmtree(out, ignore_errors=True),
        )
        versions = ", ".join(filter(None, map(peer_version, ("openslide-python", "zarr"))))
        print_table(f"Patches of {_PATCH} px into raw HDF5, one thread ({versions})", rates, _CLAIMS)
        print_table("The same per second of processor time", cpu.medians(), _CLAIMS)


if __name__ == "__main__":
    main()
