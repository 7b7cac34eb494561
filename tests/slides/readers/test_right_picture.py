"""Of a file with several pictures the slide, in its colors, upright, at its resolution."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tiff_edits import set_tag

from wsitool.errors import MissingMppError, RefusedSlideError, UnsupportedSlideError
from wsitool.slides.grid import plan_read
from wsitool.slides.readers import fingerprint, open_slide
from wsitool.slides.readers.byte_source import stem
from wsitool.slides.readers.resolution import length_um, number, square_mpp
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE
from wsitool.slides.slide_list import find_slides
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import draw_tissue

_RGB = draw_tissue(300, 260, kind="benign", mpp=0.5, seed=3)
_TILES: dict[str, Any] = {"tile": (64, 64), "compression": "zlib"}


def _pixels(path: Path, **options: Any) -> NDArray[np.uint8]:
    with open_slide(path, **options) as slide:
        return slide.read_region(0, 0, 0, slide.info.width, slide.info.height)


def _mpp(path: Path, **options: Any) -> float | None:
    with open_slide(path, **options) as slide:
        return slide.info.mpp


@pytest.fixture(scope="module")
def cases(real_data: Path) -> Path:
    folder = real_data / "cases" / "slides"
    if not folder.is_dir():
        pytest.skip("these test data have no folder cases")
    return folder


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("ome_label_first.ome.tif", 0.5),
        ("ome_rgb_as_three_pages.ome.tif", 0.5),
        ("ome_unit_charref.ome.tif", 0.5),
        ("imagej_um.tif", 0.5),
        ("planar_strip.tif", 0.5),
        ("rgb16_strip.tif", 0.5),
    ],
)
def test_files_that_went_wrong_show_the_slide(cases: Path, name: str, mpp: float) -> None:
    assert np.array_equal(_pixels(cases / name), np.load(cases / "truth.npy"))
    assert _mpp(cases / name) == mpp


def test_what_is_transparent_sparse_gray_or_turned(cases: Path) -> None:
    truth = np.load(cases / "truth.npy")
    seen = _pixels(cases / "rgba_transparent_black.tif")
    assert (seen[:100] == 255).all() and np.array_equal(seen[100:], truth[100:])
    assert np.array_equal(
        _pixels(cases / "grey_jpeg_tiles.tif")[..., 0], tifffile.imread(cases / "grey_jpeg_tiles.tif")
    )
    with Image.open(cases / "exif6.jpg") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    shown = _pixels(cases / "exif6.jpg")
    # Pillow's own decoder is another build of libjpeg.
    assert shown.shape == expected.shape == (400, 320, 3)
    assert np.abs(shown.astype(int) - expected).max() <= 2
    with open_slide(cases / "sparse_generic.tif") as slide:
        blank = int(slide.info.properties[BLANK_TILES])
        tiles = slide.tiles(0)
        places = [
            (c, r) for r in range(-(-320 // tiles.tile_height)) for c in range(-(-400 // tiles.tile_width))
        ]
        decoded = [tiles.decode(*place) for place in places]
    white = [bool((tile == 255).all()) for tile in decoded]
    assert blank == sum(white) > 0
    with openslide.OpenSlide(cases / "sparse_generic.tif") as other:
        rgba = np.asarray(other.read_region((0, 0), 0, (400, 320)))
    assert np.array_equal(
        np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]), _pixels(cases / "sparse_generic.tif")
    )


def test_a_dicom_series_is_one_slide(cases: Path, tmp_path: Path) -> None:
    series = cases / "dicom_series"
    files = sorted(series.iterdir())
    for named in ([series], files, [files[2]], [series, files[0]]):
        (slide,) = find_slides(named)
        assert (slide.path, slide.name) == (str(series), "dicom_series")
    with open_slide(series) as slide, openslide.OpenSlide(files[0]) as other:
        levels = [(level.width, level.height) for level in slide.info.levels]
        assert levels == list(other.level_dimensions) and slide.info.mpp == 0.5
        assert (slide.info.name, slide.info.path) == ("dicom_series", str(series))
        assert slide.info.fingerprint == fingerprint(series)
        expected = np.asarray(other.read_region((300, 200), 0, (400, 300)))[..., :3]
        assert np.array_equal(slide.read_region(300, 200, 0, 400, 300), expected)
    # Beside a file that is no slide it is known by its first file.
    for file in files:
        shutil.copy(file, tmp_path / f"a{file.name}")
    (tmp_path / "b.dcm").write_bytes(b"none")
    assert [slide.name for slide in find_slides(tmp_path)] == ["a0", "b"]
    with pytest.raises(UnsupportedSlideError, match="holds 2 DICOM series"):
        open_slide(tmp_path)


@pytest.mark.parametrize("name", ["1.2.840.{}", "IM{:04}"])
def test_dicom_files_are_known_without_a_suffix(cases: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for place, file in enumerate(sorted((cases / "dicom_series").iterdir())):
        shutil.copy(file, folder / name.format(place))
    files = sorted(folder.iterdir())
    (tmp_path / "README").write_text("no slide")
    for named in ([tmp_path], [folder], files, [files[1]]):
        (slide,) = find_slides(named)
        assert (slide.path, slide.name) == (str(folder), "series")
    with open_slide(folder) as slide, open_slide(cases / "dicom_series") as known:
        assert slide.info.levels == known.info.levels and slide.info.reader == known.info.reader
        assert np.array_equal(slide.read_region(9, 9, 0, 300, 200), known.read_region(9, 9, 0, 300, 200))
    # A number is no suffix, or all files of a folder would have one name.
    assert stem("1.2.840.3") == "1.2.840.3" and stem("a.b.svs") == "a.b" and stem(".svs") == ".svs"


def _ome(path: Path, *pictures: NDArray[Any], **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for pixels in pictures:
            writer.write(pixels, **(_TILES | options))
    return path


@pytest.mark.parametrize(("axes", "count"), [("C", 2), ("C", 5), ("Z", 3), ("T", 4)])
def test_stacks_are_refused_by_name_and_not_shown_as_gray(tmp_path: Path, axes: str, count: int) -> None:
    words = {"C": "channels", "Z": "focal planes", "T": "points of time"}[axes]
    stack = np.stack([_RGB[..., 0]] * count)
    path = _ome(tmp_path / "s.ome.tif", stack, photometric="minisblack", metadata={"axes": f"{axes}YX"})
    with pytest.raises(RefusedSlideError, match=f"holds {count} {words} and no colors: only RGB"):
        open_slide(path)
    imagej = tmp_path / "imagej.tif"
    tifffile.imwrite(imagej, stack, imagej=True, metadata={"axes": f"{axes}YX"})
    with pytest.raises(RefusedSlideError, match=f"holds {count} {words}"):
        open_slide(imagej)


def test_three_gray_pages_are_colors_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.tif"
    planes = np.moveaxis(_RGB, 2, 0)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(planes, subifds=1, photometric="minisblack", metadata={"axes": "CYX"}, **_TILES)
        writer.write(planes[:, ::2, ::2], subfiletype=1, photometric="minisblack", **_TILES)
    with open_slide(path) as slide:
        assert [level.width for level in slide.info.levels] == [300, 150]
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), _RGB)
        assert np.array_equal(slide.read_region(0, 0, 1, 150, 130), _RGB[::2, ::2])
    deep = _ome(
        tmp_path / "d.ome.tif", planes.astype(np.uint16), photometric="minisblack", metadata={"axes": "CYX"}
    )
    with pytest.raises(RefusedSlideError, match="holds 3 channels"):
        open_slide(deep)


@pytest.mark.parametrize("ome", [True, False])
def test_the_largest_picture_is_the_slide_wherever_it_stands(tmp_path: Path, ome: bool) -> None:
    path, label, slide = tmp_path / "l.tif", _RGB[:90, :70], _RGB
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for pixels in (label, slide, label[:, ::-1]):
            writer.write(pixels, photometric="rgb", metadata={"axes": "YXS"} if ome else None, **_TILES)
    assert np.array_equal(_pixels(path), slide)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["tiff", "jpeg", "png"])
def test_pictures_stand_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    image = Image.fromarray(_RGB)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"t.{kind}"
    if kind == "tiff":
        tifffile.imwrite(path, _RGB, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation)])
    else:
        image.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpeg" else {}))
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    shown = _pixels(path)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= (2 if kind == "jpeg" else 0)


def test_an_orientation_that_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "t.tif"
    tifffile.imwrite(path, _RGB, photometric="rgb", metadata=None, extratags=[(274, 3, 1, 6)], **_TILES)
    assert np.array_equal(_pixels(path), _RGB.transpose(1, 0, 2)[:, ::-1])
    set_tag(path, 274, value=9)
    with pytest.raises(RefusedSlideError, match="orientation 9, and there are 1 to 8"):
        open_slide(path)


@pytest.mark.parametrize(
    ("size", "unit", "um"),
    [
        ("0.5", "µm", 0.5),
        ("0.5", "μm", 0.5),
        ("0.5", "um", 0.5),
        ("0,5", "micron", 0.5),
        ("500", "nm", 0.5),
        ("5e-4", "mm", 0.5),
        ("0.00005", "cm", 0.5),
        ("5000", "Å", 0.5),
        ("0.5", "Micrometer", 0.5),
        ("0.5", r"\u00B5m", 0.5),
        ("0.5", "Mm", None),
        ("0.5", "pixel", None),
        ("-1", "um", None),
        ("nan", "um", None),
        ("", "um", None),
    ],
)
def test_lengths_in_every_spelling(size: str, unit: str, um: float | None) -> None:
    found = length_um(number(size), unit)
    assert found == (None if um is None else pytest.approx(um))


def test_the_resolution_of_an_ome_file_is_of_its_slide(tmp_path: Path) -> None:
    path = tmp_path / "r.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for pixels, size in ((_RGB[:90, :70], 20.0), (_RGB, 250.0)):
            unit = "nm" if size > 100 else "µm"
            metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
            metadata |= {"PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
            writer.write(pixels, photometric="rgb", metadata=metadata, **_TILES)
    assert _mpp(path) == pytest.approx(0.25)


def test_pixels_that_are_not_square_have_no_one_resolution(tmp_path: Path) -> None:
    assert square_mpp(0.5, 0.505) == (0.5025, "") and square_mpp(None, 0.4) == (0.4, "")
    path = _ome(
        tmp_path / "q.ome.tif", _RGB, photometric="rgb", metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.6}
    )
    with open_slide(path) as slide:
        assert slide.info.mpp is None and slide.info.properties[NOT_SQUARE] == "0.5 x 0.6 um"
        with pytest.raises(MissingMppError, match=r"not square \(0.5 x 0.6 um\), so --mpp 0.5 cannot"):
            plan_read(slide.info, TileSpec(patch_size=64, mpp=0.5))
    assert _mpp(path, default_mpp=0.55) == 0.55


_PHILIPS = """<?xml version="1.0" ?><DataObject ObjectType="DPUfsImport">
<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>
<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">LABELIMAGE</Attribute>
<Attribute Name="DICOM_PIXEL_SPACING">"0.05" "0.05"</Attribute></DataObject>
<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>
<Attribute Name="DICOM_PIXEL_SPACING">"0.000252" "0.00025"</Attribute></DataObject>
</Array></Attribute></DataObject>"""


def test_a_philips_slide_states_rows_before_columns_and_labels_before_itself(tmp_path: Path) -> None:
    path = tmp_path / "p.tiff"
    tifffile.imwrite(
        path,
        _RGB,
        photometric="rgb",
        metadata=None,
        description=_PHILIPS,
        software="Philips DP v1.0",
        **_TILES,
    )
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_philips
    assert _mpp(path) == pytest.approx(0.251)
    stretched = _PHILIPS.replace("0.000252", "0.0005")
    tifffile.imwrite(
        path,
        _RGB,
        photometric="rgb",
        metadata=None,
        description=stretched,
        software="Philips DP v1.0",
        **_TILES,
    )
    with open_slide(path) as slide:
        assert slide.info.properties[NOT_SQUARE] == "0.25 x 0.5 um"
