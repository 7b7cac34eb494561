"""16-bit samples, planes stored apart, palettes: others' pixels where whole, else that tile unreadable."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tiff_edits import set_tag, set_values

from wsitool.errors import RegionReadError, UnsupportedSlideError
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide

_WIDTH, _HEIGHT = 300, 260
_RGB = draw_tissue(_WIDTH, _HEIGHT, kind="benign", mpp=0.5, seed=3)
_NOISE = np.random.default_rng(0).integers(0, 256, _RGB.shape, np.uint8)
_DEEP = _RGB.astype(np.uint16) << 8 | _NOISE
_APART = {"photometric": "rgb", "planarconfig": "separate"}
_KINDS: dict[str, tuple[NDArray[np.generic], dict[str, Any]]] = {
    "deep": (_DEEP, {"photometric": "rgb"}),
    "deep grey": (_DEEP[..., 1], {"photometric": "minisblack"}),
    "deep negative": (_DEEP[..., 1], {"photometric": "miniswhite"}),
    "planes": (np.moveaxis(_RGB, 2, 0), _APART),
    "deep planes": (np.moveaxis(_DEEP, 2, 0), _APART),
    "palette": (
        _RGB[..., 1],
        {
            "photometric": "palette",
            "colormap": np.random.default_rng(1).integers(0, 65_536, (3, 256)).astype(np.uint16),
        },
    ),
}
_PACKED = [(None, False), ("packbits", False)]
_PACKED += [(name, predictor) for name in ("lzw", "zlib", "zstd") for predictor in (False, True)]


def _write(path: Path, kind: str, **options: Any) -> Path:
    pixels, more = _KINDS[kind]
    tifffile.imwrite(path, pixels, metadata=None, **{"tile": (128, 128)} | more | options)
    return path


def _by_tifffile(path: Path) -> NDArray[np.uint8]:
    """The file's pixels as 8-bit RGB, made of what tifffile reads by the meaning of the tags."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        pixels = page.asarray()
        if page.planarconfig == 2:
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == 3:
            pixels = page.colormap.T[pixels]
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        if page.photometric == 0:
            pixels = 255 - pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("compression", "predictor"), _PACKED)
def test_every_pixel_is_the_others(
    tmp_path: Path, kind: str, order: str, compression: str | None, predictor: bool
) -> None:
    shared = {"compression": compression, "predictor": predictor, "byteorder": order}
    for name, more in (
        ("tiles", {}),
        ("strips", {"tile": None, "rowsperstrip": 48}),
        ("big", {"bigtiff": True}),
    ):
        path = _write(tmp_path / f"{name}.tif", kind, **shared, **more)
        with open_slide(path) as slide:
            assert slide.info.reader == ("image" if name == "strips" else "tiff")
            whole = slide.read_region(0, 0, 0, _WIDTH, _HEIGHT)
            assert np.array_equal(slide.read_region(70, 90, 0, 200, 150), whole[90:240, 70:270])
        assert np.array_equal(whole, _by_tifffile(path))
        if name == "tiles" and order == "<":  # the only ones OpenSlide opens
            with openslide.OpenSlide(path) as truth:
                theirs = np.asarray(truth.read_region((0, 0), 0, (_WIDTH, _HEIGHT)))[..., :3].astype(int)
            # libtiff takes the high byte of grey, but rounds RGB: (value + 128) // 257.
            off = 1 if kind in ("deep", "deep planes") else 0
            # Of deep grey tiles that stick out of the image libtiff shows sheared pixels.
            width = 256 if kind in ("deep grey", "deep negative") else _WIDTH
            assert np.abs(whole - theirs)[:, :width].max() <= off


def test_planes_of_jpeg(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.tif", "planes", compression="jpeg")
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        whole = slide.read_region(0, 0, 0, _WIDTH, _HEIGHT)
        assert np.array_equal(whole, np.asarray(truth.read_region((0, 0), 0, (_WIDTH, _HEIGHT)))[..., :3])
        assert slide.info.reader == "tiff" and not slide.tiles(0).passthrough


@pytest.mark.parametrize("compression", ["png", "jpeg2000"])
def test_deep_pictures(tmp_path: Path, compression: str) -> None:
    path = _write(tmp_path / "s.tif", "deep", compression=compression)
    with open_slide(path, reader="tiff") as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, _WIDTH, _HEIGHT), _RGB)


def _damage(path: Path, index: int, how: str) -> None:
    """Break tile `index` of the tables: its bytes, or its entry in them."""
    with tifffile.TiffFile(path) as tiff:
        counts, offsets = list(tiff.pages[0].databytecounts), list(tiff.pages[0].dataoffsets)
    if how == "gone":
        counts[index] = 0
    elif how == "short":
        counts[index] -= 40
    elif how == "behind the end":
        offsets[index] = path.stat().st_size - 5
    else:
        with path.open("r+b") as file:
            file.seek(offsets[index] + counts[index] // 2)
            file.write(bytes(counts[index] // 3))
    set_values(path, 324, offsets)
    set_values(path, 325, counts)


@pytest.mark.parametrize("how", ["gone", "short", "behind the end", "overwritten"])
@pytest.mark.parametrize(
    ("kind", "compression", "plane"),
    [
        *[("deep", compression, 0) for compression in ("zlib", "lzw", "zstd")],
        *[("planes", compression, plane) for compression in ("zlib", "lzw", "jpeg") for plane in (0, 2)],
        ("deep planes", "zlib", 1),
        ("palette", "zlib", 0),
    ],
)
def test_a_damaged_tile_costs_its_own_patches(
    tmp_path: Path, kind: str, compression: str, plane: int, how: str
) -> None:
    """OpenSlide shows what is left, or white."""
    path = _write(tmp_path / "s.tif", kind, compression=compression)
    with open_slide(path) as slide:
        clean = slide.read_region(0, 0, 0, _WIDTH, _HEIGHT)
    _damage(path, 9 * plane + 1, how)
    result = tile_slide(path, tmp_path, TileSpec(level=0, patch_size=64, codec="raw", min_tissue=0))
    with open_store(result.store) as store:
        lost = {(failure.x0, failure.y0) for failure in store.failures}
        assert lost == {(x, y) for x in (128, 192) for y in (0, 64)}
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, clean[y : y + 64, x : x + 64])


@pytest.mark.parametrize("kind", ["deep", "planes"])
def test_openslide_is_not_asked_where_it_notices_no_damage(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "s.tif", kind, compression="zlib")
    with pytest.raises(UnsupportedSlideError, match="OpenSlide does not notice damage to planes"):
        open_slide(path, reader="openslide")
    if kind == "deep":
        tifffile.imwrite(path, _RGB.astype(np.int16), tile=(128, 128), photometric="rgb", metadata=None)
    else:
        set_tag(path, 262, value=8)  # CIELab
    reason = {"deep": "whole positive numbers", "planes": "not red, green and blue"}[kind]
    with pytest.raises(
        UnsupportedSlideError, match=f"tiff: .* {reason}; openslide: OpenSlide does not notice"
    ):
        open_slide(path)


def test_tiffslide_gives_no_other_colors(tmp_path: Path) -> None:
    with open_slide(_write(tmp_path / "deep.tif", "deep", compression="zlib"), reader="tiffslide") as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, _WIDTH, _HEIGHT), _RGB)
    for kind in ("palette", "deep negative"):
        with pytest.raises(UnsupportedSlideError, match="tiffslide shows it in wrong colors"):
            open_slide(_write(tmp_path / "s.tif", kind), reader="tiffslide")
    path = _write(tmp_path / "s.tif", "deep", compression="lzw")
    _damage(path, 1, "overwritten")
    with open_slide(path, reader="tiffslide") as slide, pytest.raises(RegionReadError, match="imcd_lzw"):
        slide.read_region(128, 0, 0, 64, 64)


def test_what_tiffslide_stumbles_over_is_a_sentence(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.tif", "deep", compression="zlib", resolution=(2, 2))
    set_tag(path, 296, value=0)  # no unit of resolution
    with pytest.raises(UnsupportedSlideError, match=r"^tiffslide refuses it: .*$"):
        open_slide(path, reader="tiffslide")


def _claiming(compression: str, side: int) -> bytes:
    """A tile whose header claims `side` x `side` pixels."""
    tile = np.ascontiguousarray(_RGB[:128, :128])
    if compression == "jpeg":
        data = bytearray(imagecodecs.jpeg8_encode(tile))
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    else:
        data = bytearray(imagecodecs.jpeg2k_encode(tile, codecformat="jp2"))
        struct.pack_into(">II", data, data.index(b"\xff\x4f\xff\x51") + 8, side, side)
        at = data.index(b"ihdr") + 4
        data[at : at + 8] = struct.pack(">II", side, side)
    return bytes(data)


@pytest.mark.parametrize("compression", ["jpeg", "aperio_jp2000_rgb"])
def test_tiffslide_decodes_no_tile_that_claims_more_than_a_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Told before a decoder sees it, which would take 10 GB; also of the kinds that are left to tiffslide."""

    def unknown(*_: object, **__: object) -> None:
        raise UnsupportedSlideError("a kind that is not read directly")

    monkeypatch.setattr("wsitool.slides.readers.openslide.open_tiff", unknown)
    path, tile = tmp_path / "s.tif", _claiming(compression, 60_000)
    tifffile.imwrite(path, _RGB, tile=(128, 128), photometric="rgb", compression=compression, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
    offsets[4], counts[4] = path.stat().st_size, len(tile)
    set_values(path, 324, offsets)
    set_values(path, 325, counts)
    with path.open("ab") as file:
        file.write(tile)
    with open_slide(path, reader="tiffslide") as slide:
        assert slide.read_region(0, 0, 0, 128, 128).std() > 0
        with pytest.raises(RegionReadError, match="samples claims to have 10800000000"):
            slide.read_region(130, 130, 0, 64, 64)


def test_the_cases(real_data: Path) -> None:
    cases = real_data / "cases" / "slides"
    truth = np.load(cases / "truth.npy")
    height, width = truth.shape[:2]
    for name in ("planar_strip.tif", "rgb16_strip.tif", "palette_strip.tif"):
        with open_slide(cases / name) as slide:
            pixels = slide.read_region(0, 0, 0, width, height)
        with Image.open(cases / name) as image:
            expected = np.asarray(image.convert("RGB")) if name.startswith("palette") else truth
        assert np.array_equal(pixels, expected)
