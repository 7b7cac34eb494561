"""Cutting DICOM and OME-Zarr slides into raw HDF5, one thread: wsitool against the libraries' own loops.

WSITOOL_TEST_DATA=... python tests/benchmarks/bench_formats.py [--tiles 48]

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
from side_by_side import Claim, CpuClock, measure, peer_version, print_table

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
    group = zarr.open_group(str(folder / "s.zarr"), mode="w")
    (folder / "d").mkdir()
    # A level 1/8 as large, from which tissue is found: its pixels are of no account.
    for level, count in enumerate((tiles, tiles // 8)):
        frames = [whole[i % len(whole)] for i in range(count * count)]
        dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = count * _TILE
        dataset.NumberOfFrames = len(frames)
        dataset.PixelData = encapsulate(frames)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{level}"
        dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if level else dataset.ImageType
        dataset.save_as(folder / "d" / f"{level}.dcm")
        shape = (3, count * _TILE, count * _TILE)
        array = group.create_array(str(level), shape=shape, chunks=(3, _TILE, _TILE), dtype=np.uint8)
        for number, frame in enumerate(frames):
            y, x = number // count * _TILE, number % count * _TILE
            array[:, y : y + _TILE, x : x + _TILE] = np.moveaxis(imagecodecs.jpeg8_decode(frame), 2, 0)
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    scales = [{"type": "scale", "scale": [1.0, 0.5 * step, 0.5 * step]} for step in (1, 8)]
    datasets = [{"path": str(i), "coordinateTransformations": [scale]} for i, scale in enumerate(scales)]
    multiscale = {"axes": [{"name": "c", "type": "channel"}, *axes], "datasets": datasets}
    group.attrs.put({"ome": {"version": "0.5", "multiscales": [multiscale]}})
    return folder / "d" / "0.dcm", folder / "s.zarr"


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
    parser.add_argument("--tiles", type=int, default=48, help="side of the slides in tiles of 256 px")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    root = Path(os.environ.get("WSITOOL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = write_slides(root / "cases" / "slides" / "dicom_series", folder, tiles=arguments.tiles)
        out = folder / "out"
        cpu = CpuClock()
        contenders = {name: cpu.clocked(name, run) for name, run in candidates(*slides, folder).items()}
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
