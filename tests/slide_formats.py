"""A small slide of every format that `docs/formats.md` lists, written by other libraries than wsitool."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import pyvips
import simplejpeg
import tifffile
import zarr
from mirax import write_mirax
from numpy.typing import NDArray
from PIL import Image
from vendor_pyramids import write_ome, write_philips

from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["FORMATS", "RGB", "write_czi", "write_ome_zarr"]

RGB = draw_tissue(601, 455, kind="benign", mpp=0.5, seed=3)
_HALF = RGB[::2, ::2]


def _pyramid(path: Path, **options: object) -> Path:
    with tifffile.TiffWriter(path, bigtiff=bool(options.pop("bigtiff", False))) as writer:
        for index, pixels in enumerate((RGB, _HALF)):
            writer.write(
                pixels, tile=(128, 128), photometric="rgb", metadata=None, subfiletype=index, **options
            )  # type: ignore[arg-type]
    return path


def _fluorescence(path: Path) -> Path:
    planes = np.moveaxis(np.repeat(RGB, 2, axis=2)[..., :4], 2, 0)
    metadata = {"axes": "CYX"}
    tifffile.imwrite(path, planes, tile=(128, 128), photometric="minisblack", ome=True, metadata=metadata)
    return path


def write_ome_zarr(path: Path) -> Path:
    """Two levels, the second of every second pixel, by ome-zarr-py."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ome_zarr.writer import write_multiscale

        levels = [np.moveaxis(pixels, 2, 0) for pixels in (RGB, _HALF)]
        write_multiscale(levels, zarr.open_group(str(path), mode="w"), axes="cyx")
    return path


def write_czi(path: Path, pixels: NDArray[np.uint8] = RGB) -> Path:
    """One level of colors, by Zeiss's own library."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as writer:
        writer.write(np.ascontiguousarray(pixels[..., ::-1]), compression_options="zstd1:")
        writer.write_metadata("slide", scale_x=0.25e-6, scale_y=0.25e-6)
    return path


def _mirax(path: Path) -> Path:
    levels = [
        {
            (x // 128, y // 128): simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels[y : y + 128, x : x + 128])
            )
            for y in range(0, pixels.shape[0] - 127, 128)
            for x in range(0, pixels.shape[1] - 127, 128)
        }
        for pixels in (RGB[:256, :512], _HALF[:128, :256])
    ]
    return write_mirax(path, levels, side=128, grid=(4, 2), mpp=0.25)


def _deepzoom(path: Path) -> Path:
    pyvips.Image.new_from_array(RGB).dzsave(str(path.with_suffix("")), suffix=".png")
    return path


def _picture(path: Path) -> Path:
    Image.fromarray(RGB).save(path)
    return path


def _strips(path: Path) -> Path:
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=32)
    return path


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(_pyramid(path.with_name("s.tif")), "s.tif")
    return path


def _dicom(path: Path, real_data: Path) -> Path:
    shutil.copytree(real_data / "cases" / "slides" / "dicom_series", path)
    return path


# The beginning of its row in the page, the file's name, what writes it.
FORMATS: MappingProxyType[str, tuple[str, Callable[..., Path]]] = MappingProxyType(
    {
        "Aperio": ("s.svs", lambda path: write_pyramid(path, RGB, mpp=0.5, levels=(1, 2))),
        "tiled TIFF": ("s.tif", lambda path: _pyramid(path, compression="jpeg")),
        "BigTIFF": ("s.btf", lambda path: _pyramid(path, bigtiff=True, compression="lzw", predictor=True)),
        "OME-TIFF": ("s.ome.tif", write_ome),
        "fluorescence": ("s.ome.tif", _fluorescence),
        "Philips": ("s.tiff", lambda path: write_philips(path)[0]),
        "TIFF in strips": ("s.tif", _strips),
        "DICOM": ("series", _dicom),
        "OME-Zarr": ("s.zarr", write_ome_zarr),
        "Deep Zoom": ("s.dzi", _deepzoom),
        "Zeiss": ("s.czi", write_czi),
        "`.mrxs`": ("s.mrxs", _mirax),
        "pictures": ("s.png", _picture),
        "`.zip`": ("s.zip", _zip),
    }
)
