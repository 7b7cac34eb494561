"""OME and Philips pyramids, made here as no file is at hand, against tifffile and OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide

_TILE = 128
_SPACING_MM = 0.00025


def _ome(path: Path, compression: str) -> Path:
    """Three levels, the smaller ones in SubIFDs, as Bio-Formats writes them."""
    pixels = draw_tissue(1100, 900, kind="benign", mpp=0.25, seed=4)
    options = {"tile": (_TILE, _TILE), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": 250,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 250,
            "PhysicalSizeYUnit": "nm",
        }
        writer.write(
            pixels, subifds=2, metadata=metadata, resolution=(40000, 40000), resolutionunit=3, **options
        )
        for factor in (2, 4):
            writer.write(pixels[::factor, ::factor], subfiletype=1, **options)
    return path


def _philips(path: Path) -> tuple[Path, list[NDArray[np.uint8]]]:
    """Levels 1, 2, 4, each filled up to whole tiles with white; returns the true pixels of each, too.

    The true size of a level is not in its tags: it follows from the pixel spacings of the description.
    """
    whole = draw_tissue(_TILE * 9, _TILE * 7, kind="adh", mpp=0.25, seed=5)
    true = [whole[::factor, ::factor] for factor in (1, 2, 4)]
    parts = "".join(_object("PixelDataRepresentation", _spacing(factor)) for factor in (1, 2, 4))
    scanned = (
        _attribute("PIM_DP_IMAGE_TYPE", "IString", "WSI")
        + _spacing(1)
        + _attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "IDataObjectArray", f"<Array>{parts}</Array>")
    )
    image = _object("DPScannedImage", scanned)
    description = '<?xml version="1.0" encoding="UTF-8" ?>' + _object(
        "DPUfsImport",
        _attribute("DICOM_MANUFACTURER", "IString", "PHILIPS")
        + _attribute("PIM_DP_SCANNED_IMAGES", "IDataObjectArray", f"<Array>{image}</Array>"),
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, pixels in enumerate(true):
            height, width = (-(-side // _TILE) * _TILE for side in pixels.shape[:2])
            filled = np.full((height, width, 3), 255, np.uint8)
            filled[: pixels.shape[0], : pixels.shape[1]] = pixels
            writer.write(
                filled,
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                subfiletype=1 if number else 0,
                description=description if number == 0 else f"level={number}",
                software="Philips DP v1.0",
                metadata=None,
            )
    return path, true


def _object(kind: str, content: str) -> str:
    return f'<DataObject ObjectType="{kind}">{content}</DataObject>'


def _attribute(name: str, kind: str, content: str) -> str:
    return f'<Attribute Name="{name}" Group="0x301D" Element="0x1003" PMSVR="{kind}">{content}</Attribute>'


def _spacing(factor: int) -> str:
    side = f"&quot;{_SPACING_MM * factor:.9f}&quot;"
    return _attribute("DICOM_PIXEL_SPACING", "IDoubleArray", f"{side} {side}")


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_ome_pyramid_in_subifds(tmp_path: Path, compression: str) -> None:
    path = _ome(tmp_path / "o.ome.tif", compression)
    with open_slide(path) as slide, tifffile.TiffFile(path) as truth:
        assert (slide.info.reader, slide.info.mpp, slide.info.mpp_source) == ("tiff", 0.25, "file")
        sizes = [(level.width, level.height) for level in slide.info.levels]
        assert sizes == [(1100, 900), (550, 450), (275, 225)]
        for i, (width, height) in enumerate(sizes):
            pixels = truth.series[0].levels[i].asarray()
            assert np.array_equal(slide.read_region(0, 0, i, width, height), pixels)
    _assert_patches(path, tmp_path)
    with openslide.OpenSlide(path) as shown, open_slide(path) as slide:  # it knows the first level only
        region = np.asarray(shown.read_region((300, 200), 0, (500, 400)))[..., :3]
        assert np.array_equal(slide.read_region(300, 200, 0, 500, 400), region)


def test_philips_levels_have_their_true_size(tmp_path: Path) -> None:
    path, true = _philips(tmp_path / "p.tiff")
    with open_slide(path) as slide, tifffile.TiffFile(path) as pages, openslide.OpenSlide(path) as shown:
        assert shown.properties["openslide.vendor"] == "philips"
        assert slide.info.reader == "tiff" and slide.info.format.startswith("Philips TIFF")
        assert slide.info.mpp == pytest.approx(float(shown.properties["openslide.mpp-x"])) == 0.25
        sizes = [(level.width, level.height) for level in slide.info.levels]
        assert sizes == list(shown.level_dimensions) == [level.shape[1::-1] for level in true]
        assert [level.downsample for level in slide.info.levels] == pytest.approx(shown.level_downsamples)
        for i, (width, height) in enumerate(sizes):
            ours = slide.read_region(0, 0, i, width, height)
            assert np.array_equal(ours, pages.pages[i].asarray()[:height, :width])
            assert np.array_equal(ours, np.asarray(shown.read_region((0, 0), i, (width, height)))[..., :3])
            assert np.abs(ours.astype(int) - true[i]).mean() < 6  # JPEG of the pixels that were put there
    _assert_patches(path, tmp_path)


def _assert_patches(path: Path, folder: Path) -> None:
    """Every patch of every level, the last column and row among them, is tifffile's."""
    with tifffile.TiffFile(path) as truth:
        levels = [level.asarray() for level in truth.series[0].levels]
    for i, pixels in enumerate(levels):
        spec = TileSpec(level=i, patch_size=60, codec="raw", min_tissue=0)
        result = tile_slide(path, folder / f"level{i}", spec)
        assert result.kept == (pixels.shape[1] // 60) * (pixels.shape[0] // 60)
        with open_store(result.store) as store:
            scale = np.array(levels[0].shape[1::-1]) / np.array(pixels.shape[1::-1])
            corners = np.rint(store.coords / scale).astype(int).tolist()
            for patch, (x, y) in zip(store.read(range(len(store))), corners, strict=True):
                assert np.array_equal(patch, pixels[y : y + 60, x : x + 60])
