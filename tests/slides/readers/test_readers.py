"""Readers against OpenSlide, tifffile and Pillow: geometry, resolution, pixels, refusals."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, features

from wsitool.errors import RegionReadError, SlideError, UnsupportedSlideError, UsageError
from wsitool.slides.readers import READERS, fingerprint, open_slide
from wsitool.testing.synthetic import draw_tissue, synthetic_slide

_SLIDES = ["CMU-1-Small-Region.svs", "breast_her2st_B4.tiff", "tcga-cr-7395-01a-01-ts1.svs", "boxes.tiff"]


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize("name", _SLIDES)
def test_geometry_and_resolution_are_openslides(real_data: Path, name: str, reader: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, reader=reader) as slide, openslide.OpenSlide(path) as truth:
        info = slide.info
        assert [(level.width, level.height) for level in info.levels] == list(truth.level_dimensions)
        assert [level.downsample for level in info.levels] == pytest.approx(truth.level_downsamples)
        mpp = truth.properties.get("openslide.mpp-x")
        stated = mpp is not None and float(mpp) < 50  # 72 dpi is 353 um/px: nobody's resolution
        assert info.mpp == (pytest.approx(float(mpp)) if stated else None)
        power = truth.properties.get("openslide.objective-power")
        assert info.objective_power == (None if power is None else float(power))
        assert info.reader == reader and info.name == path.stem


@pytest.mark.parametrize("name", _SLIDES)
def test_regions_are_openslides(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, reader="tiff") as slide, openslide.OpenSlide(path) as truth:
        rng = np.random.default_rng(1)
        width, height = truth.dimensions
        for _ in range(12):
            size = tuple(rng.integers(1, min(400, width, height), 2).tolist())
            x, y = rng.integers(0, width - size[0]), rng.integers(0, height - size[1])
            expected = np.asarray(truth.read_region((int(x), int(y)), 0, size))[..., :3]
            assert np.array_equal(slide.read_region(int(x), int(y), 0, *size), expected)


@pytest.mark.parametrize("name", _SLIDES)
def test_every_level_is_tifffiles(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, reader="tiff") as slide, tifffile.TiffFile(path) as truth:
        for i, level in enumerate(slide.info.levels):
            if level.width * level.height < 3e7:
                pixels = slide.read_region(0, 0, i, level.width, level.height)
                assert np.array_equal(pixels, truth.series[0].levels[i].asarray())


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_outside_the_slide_is_white(real_data: Path, reader: str) -> None:
    with open_slide(real_data / "slides" / "CMU-1-Small-Region.svs", reader=reader) as slide:
        width, height = slide.info.width, slide.info.height
        corner = slide.read_region(width - 10, height - 20, 0, 30, 30)
        assert (corner[20:] == 255).all() and (corner[:, 10:] == 255).all()
        assert np.array_equal(corner[:20, :10], slide.read_region(width - 10, height - 20, 0, 10, 20))
        before = slide.read_region(-5, -7, 0, 20, 20)
        assert (before[:7] == 255).all() and (before[:, :5] == 255).all()
        assert np.array_equal(before[7:, 5:], slide.read_region(0, 0, 0, 15, 13))


def test_auto_chooses_by_content(real_data: Path, tmp_path: Path) -> None:
    slides = real_data / "slides"
    expected = {"CMU-1-Small-Region.svs": "tiff", "kidney-48-5.tif": "image", "small.svs": "tiff"}
    for name, reader in expected.items():
        with open_slide(slides / name) as slide:
            assert slide.info.reader == reader
            assert ("picture" in slide.info.properties["reader_reason"]) == (reader == "image")
    disguised = shutil.copy(slides / "CMU-1-Small-Region.svs", tmp_path / "slide.dat")
    with open_slide(disguised) as slide:
        assert slide.info.reader == "tiff"


def test_strip_tiff_png_and_jpeg_pixels(real_data: Path, tmp_path: Path) -> None:
    strips = real_data / "slides" / "kidney-48-5.tif"
    with open_slide(strips) as slide:
        assert np.array_equal(
            slide.read_region(0, 0, 0, slide.info.width, slide.info.height), tifffile.imread(strips)
        )
    pixels = draw_tissue(1300, 1100, kind="benign", mpp=0.5, seed=1)
    for suffix in ("png", "jpg", "bmp"):
        path = tmp_path / f"p.{suffix}"
        Image.fromarray(pixels).save(path)
        with open_slide(path, default_mpp=0.5) as slide:
            assert (slide.info.reader, slide.info.mpp, slide.info.mpp_source) == ("image", 0.5, "given")
            region = slide.read_region(900, 950, 0, 300, 140)
            assert np.array_equal(region, np.asarray(Image.open(path))[950:1090, 900:1200])


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    rgba = np.zeros((50, 60, 4), np.uint8)
    rgba[:, 30:] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        region = slide.read_region(0, 0, 0, 60, 50)
    assert (region[:, :30] == 255).all() and (region[:, 30:] == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("photometric", "shape", "compression"),
    [
        ("minisblack", (300, 200), "zlib"),
        ("miniswhite", (300, 200), "lzw"),
        ("rgb", (300, 200, 3), "webp"),
        ("rgb", (300, 200, 3), "zstd"),
        ("rgb", (300, 200, 4), "deflate"),
    ],
)
def test_other_tiff_kinds(tmp_path: Path, photometric: str, shape: tuple[int, ...], compression: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "t.tif"
    options = {"lossless": True} if compression == "webp" else None
    extra = {"extrasamples": ["unassalpha"]} if shape[2:] == (4,) else {}
    tifffile.imwrite(
        path,
        pixels,
        tile=(64, 64),
        photometric=photometric,
        compression=compression,
        compressionargs=options,
        **extra,
    )
    expected = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels[..., :3]
    if photometric == "miniswhite":
        expected = 255 - expected
    if shape[2:] == (4,):
        expected = np.where(pixels[..., 3:] == 0, 255, expected)
    with open_slide(path, reader="tiff") as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 200, 300), expected)


def test_ycbcr_jpeg2000_as_openslide_shows_it(tmp_path: Path) -> None:
    rgb = draw_tissue(512, 512, kind="adh", mpp=0.5, seed=2)
    path = tmp_path / "y.svs"
    tifffile.imwrite(
        path,
        np.asarray(Image.fromarray(rgb).convert("YCbCr")),
        tile=(256, 256),
        photometric="rgb",
        compression=33003,
        compressionargs={"reversible": True, "level": 0},
        description="Aperio Image Library\n512x512|AppMag = 20|MPP = 0.5",
        metadata=None,
    )
    with open_slide(path, reader="tiff") as slide, openslide.OpenSlide(path) as truth:
        assert slide.info.properties["compression"] == "APERIO_JP2000_YCBC"
        ours = slide.read_region(0, 0, 0, 512, 512).astype(int)
        theirs = np.asarray(truth.read_region((0, 0), 0, (512, 512)))[..., :3]
    assert np.abs(ours - theirs).max() <= 1


def test_mpp_sources(tmp_path: Path) -> None:
    silent = synthetic_slide(tmp_path / "silent.svs", size=(300, 300), mpp=None)
    for given, expected in ((None, (None, None)), (0.3, (0.3, "given"))):
        with open_slide(silent, default_mpp=given) as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == expected
    stated = synthetic_slide(tmp_path / "stated.svs", size=(300, 300), mpp=0.25)
    with open_slide(stated, default_mpp=9.0) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.25, "file")
    pixels = np.zeros((256, 256, 3), np.uint8)
    only_power = tmp_path / "power.svs"
    text = "Aperio Image Library\n256x256|AppMag = 40"
    tifffile.imwrite(only_power, pixels, tile=(128, 128), description=text, metadata=None, photometric="rgb")
    with open_slide(only_power) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.25, "objective")
    screen = tmp_path / "screen.tif"
    tifffile.imwrite(
        screen, pixels, tile=(128, 128), resolution=(72, 72), resolutionunit="INCH", photometric="rgb"
    )
    with open_slide(screen) as slide:
        assert slide.info.mpp is None, "72 dpi is a program's default, not a resolution"


def test_ome_pyramid(tmp_path: Path) -> None:
    pixels = draw_tissue(512, 400, kind="benign", mpp=0.5, seed=0)
    path = tmp_path / "o.ome.tif"
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
        writer.write(
            pixels, subifds=1, tile=(128, 128), photometric="rgb", metadata=metadata, compression="zlib"
        )
        writer.write(pixels[::2, ::2], subfiletype=1, tile=(128, 128), photometric="rgb", compression="zlib")
    with open_slide(path, reader="tiff") as slide:
        assert slide.info.mpp == 0.5 and slide.info.format.startswith("OME-TIFF")
        assert [(level.width, level.height) for level in slide.info.levels] == [(512, 400), (256, 200)]
        assert np.array_equal(slide.read_region(0, 0, 1, 256, 200), pixels[::2, ::2])


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_bad_tile_does_not_spoil_later_reads(tmp_path: Path, reader: str) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(1024, 1024), levels=(1,))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 200)
    with open_slide(path, reader=reader) as slide:
        good = slide.read_region(0, 0, 0, 256, 256)
        for _ in range(2):
            with pytest.raises(RegionReadError, match="cannot be read"):
                slide.read_region(256, 256, 0, 256, 256)
            assert np.array_equal(slide.read_region(0, 0, 0, 256, 256), good)
            assert slide.read_region(512, 512, 0, 100, 100).std() > 0

        def tile(place: tuple[int, int]) -> bool:
            try:
                slide.tiles(0).decode(*place)
            except RegionReadError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            places = [(column, row) for _ in range(3) for row in range(4) for column in range(4)]
            read = list(pool.map(tile, places))
        assert [place for place, ok in zip(places, read, strict=True) if not ok] == [(1, 1)] * 3


def test_fingerprint_notices_content_not_name(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "slides" / "CMU-1-Small-Region.svs"
    copy = Path(shutil.copy(source, tmp_path / "other.svs"))
    copy.chmod(0o644)
    assert fingerprint(copy) == fingerprint(source)
    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size - 1)
    assert fingerprint(copy) != fingerprint(source)
    small = tmp_path / "small"
    small.write_bytes(b"a" * 1000)
    before = fingerprint(small)
    small.write_bytes(b"a" * 999 + b"b")
    assert fingerprint(small) != before


def test_refusals(real_data: Path, tmp_path: Path) -> None:
    for path, reader, message in (
        (tmp_path / "absent.svs", "auto", "There is no file"),
        (tmp_path, "auto", "is a folder"),
        (real_data / "slides" / "kidney-48-5.tif", "tiff", "without tiles"),
        (real_data / "slides" / "broken.svs", "tiff", "not a readable TIFF"),
        (real_data / "slides" / "broken.svs", "openslide", "does not know this format"),
    ):
        with pytest.raises(UnsupportedSlideError, match=message):
            open_slide(path, reader=reader)
    with pytest.raises(UsageError, match=f"choose one of {', '.join(READERS)}"):
        open_slide(tmp_path, reader="bioformats")
    with pytest.raises(UsageError, match="positive"):
        open_slide(tmp_path, default_mpp=-1)
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((128, 128), np.uint32), tile=(64, 64))
    with pytest.raises(UnsupportedSlideError, match="32-bit samples"):
        open_slide(tmp_path / "deep.tif", reader="tiff")


@pytest.mark.parametrize("name", [*_SLIDES, "kidney-48-5.tif"])
def test_tiffslide_agrees(real_data: Path, name: str) -> None:
    """Another library's pixels, white beyond the edge as every reader's."""
    path = real_data / "slides" / name
    with open_slide(path, reader="tiffslide") as second, open_slide(path) as slide:
        assert second.info.reader == "tiffslide"
        assert [(level.width, level.height) for level in second.info.levels] == [
            (level.width, level.height) for level in slide.info.levels
        ]
        assert second.info.mpp == slide.info.mpp
        width, height = slide.info.width, slide.info.height
        for x, y in ((-30, -20), (60, 50), (width - 40, height - 30)):
            assert np.array_equal(second.read_region(x, y, 0, 90, 80), slide.read_region(x, y, 0, 90, 80))


def test_tiffslide_is_taken_only_by_name(tmp_path: Path) -> None:
    """It guesses where a tag is damaged: the others' refusal must stand, with a hint."""
    path = synthetic_slide(tmp_path / "s.svs", size=(300, 300), compression="none", levels=(1,))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(52479)
    with pytest.raises(UnsupportedSlideError, match=r"No reader opens .*--reader tiffslide may"):
        open_slide(path)
    with pytest.raises(UnsupportedSlideError, match="local files only"):
        open_slide("memory://s.svs", reader="tiffslide")


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "AVIF", "BLP", "JPEG2000", "QOI"]
)
def test_damaged_pictures_end_in_a_sentence(tmp_path: Path, form: str) -> None:
    """Pillow's plugins raise whatever fails first; here it is one sentence, or the picture."""
    path = tmp_path / "p"
    picture = Image.fromarray(draw_tissue(120, 90, kind="adh", mpp=0.5, seed=1))
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    (picture.quantize() if form == "BLP" else picture).save(path, form)
    data, rng = path.read_bytes(), np.random.default_rng(5)
    for _ in range(25):
        damaged = bytearray(data[: int(rng.integers(4, len(data)))] if rng.random() < 0.3 else data)
        for place in rng.integers(0, min(len(damaged), 300), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            with open_slide(path) as slide:
                slide.read_region(0, 0, 0, 50, 50)
        except SlideError as error:
            assert "\n" not in str(error)


def test_every_byte_of_a_pngs_pixels_counts(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(draw_tissue(300, 260, kind="adh", seed=7)).convert("L").save(path)
    data = path.read_bytes()
    for place in range(len(data) - 300, len(data) - 16):  # the last pixels and their two checksums
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with pytest.raises(UnsupportedSlideError, match="is damaged"):
            open_slide(path)


@pytest.mark.parametrize(("at", "value"), [(10, 33), (10, 53), (18, 119), (18, 60), (34, 1)])
@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1"])
def test_a_bmp_that_contradicts_itself_is_not_sheared(tmp_path: Path, mode: str, at: int, value: int) -> None:
    """Nothing else shows that the place of its pixels or its width was hit."""
    picture = Image.fromarray(draw_tissue(120, 90, kind="adh", mpp=0.5, seed=1)).convert(mode)
    picture.save(tmp_path / "p.bmp")
    with open_slide(tmp_path / "p.bmp") as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 120, 90), np.asarray(picture.convert("RGB")))
    data = bytearray((tmp_path / "p.bmp").read_bytes())
    data[at : at + 4] = value.to_bytes(4, "little")
    (tmp_path / "p.bmp").write_bytes(data)
    try:
        with open_slide(tmp_path / "p.bmp") as slide:
            shown = slide.read_region(0, 0, 0, value, 90)
    except UnsupportedSlideError as error:
        assert "bytes of pixels from byte" in str(error)
    else:  # one column less in rows of as many bytes
        assert np.array_equal(shown, np.asarray(picture.convert("RGB"))[:, :value]) and value == 119


@pytest.mark.parametrize("form", ["EPS", "ICO", "ICNS"])
def test_icons_and_programs_are_no_pictures(tmp_path: Path, form: str) -> None:
    """Another program would draw it, or a picture of any size lies within the one that was measured."""
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(tmp_path / "p", form)
    with pytest.raises(UnsupportedSlideError, match="is not a picture that Pillow can read"):
        open_slide(tmp_path / "p", reader="image")


def test_a_name_in_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    """As a Korean Windows wrote it; the name opens by every reader."""
    path = Path(os.fsdecode(os.fsencode(tmp_path / "x") + "슬라이드".encode("cp949") + b".svs"))
    synthetic_slide(tmp_path / "s.svs", size=(300, 300)).rename(path)
    for reader in (name for name in READERS if name == "auto" or READERS.get(name).may_take(b"II*\0")):
        with open_slide(path, reader=reader) as slide:
            assert slide.read_region(0, 0, 0, 50, 50).std() > 0
            slide.check_unchanged()
