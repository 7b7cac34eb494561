"""Channels shown as colors where that is asked for, and ICC profiles: recorded, and converted on request."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsitool.cli import main
from wsitool.curate.verifying import verify_store
from wsitool.errors import RefusedSlideError, StoreError, UnsupportedSlideError, UsageError
from wsitool.slides.readers import open_slide
from wsitool.slides.slide import ICC_STATE
from wsitool.slides.spec import CandidateRule, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide, tile_slides

_RGB = draw_tissue(300, 260, kind="benign", mpp=0.5, seed=3)
_SPEC = TileSpec(patch_size=64, level=0, codec="raw", min_tissue=0)


def _channels(path: Path, *, bits: int = 8) -> NDArray[np.uint8]:
    """An OME-TIFF of two levels whose channels 3, 0 and 2 are the colors of `_RGB`; those are returned."""
    red, green, blue = (_RGB[..., i] for i in range(3))
    planes = np.stack([green, 255 - red, blue, red, blue // 2])
    planes = planes.astype(np.uint16) << 8 if bits == 16 else planes
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(
            planes, subifds=1, metadata={"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options
        )
        writer.write(planes[:, ::2, ::2], subfiletype=1, **options)
    return _RGB


@pytest.mark.parametrize("bits", [8, 16])
def test_channels_are_colors_where_that_is_asked_for(tmp_path: Path, bits: int) -> None:
    expected = _channels(tmp_path / "f.ome.tif", bits=bits)
    with pytest.raises(RefusedSlideError, match=r"holds 5 channels and no colors: .*--channels"):
        open_slide(tmp_path / "f.ome.tif")
    with open_slide(tmp_path / "f.ome.tif", channels=(3, 0, 2)) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), expected)
        assert np.array_equal(slide.read_region(0, 0, 1, 150, 130), expected[::2, ::2])


def test_channels_that_there_are_not(tmp_path: Path) -> None:
    _channels(tmp_path / "f.ome.tif")
    for wrong in ((0, 1), (0, 1, 2, 3), (0, 1, -1)):
        with pytest.raises(UsageError, match="must be three numbers from 0 on"):
            open_slide(tmp_path / "f.ome.tif", channels=wrong)
    with pytest.raises(UsageError, match="icc must be one of keep, srgb, got 'sRGB'"):
        open_slide(tmp_path / "f.ome.tif", icc="sRGB")  # type: ignore[arg-type]
    with pytest.raises(RefusedSlideError, match="has 5 channels, numbered from 0"):
        open_slide(tmp_path / "f.ome.tif", channels=(0, 1, 7))
    with pytest.raises(UnsupportedSlideError, match="openslide takes no --channels"):
        open_slide(tmp_path / "f.ome.tif", channels=(0, 1, 2), reader="openslide")
    Image.fromarray(_RGB).save(tmp_path / "p.png")
    with pytest.raises(UnsupportedSlideError, match="has no channels to choose from"):
        open_slide(tmp_path / "p.png", channels=(0, 1, 2))
    tifffile.imwrite(tmp_path / "c.tif", _RGB, photometric="rgb", tile=(64, 64))
    with pytest.raises(RefusedSlideError, match="has colors and no channels to choose from"):
        open_slide(tmp_path / "c.tif", channels=(0, 1, 2))


def test_a_store_keeps_its_channels_and_verify_uses_them(tmp_path: Path) -> None:
    path, store = tmp_path / "f.ome.tif", tmp_path / "o" / "f.ome.h5"
    _channels(path)
    tile_slide(path, tmp_path / "o", _SPEC, channels=(3, 0, 2))
    with open_store(store) as opened:
        assert opened.meta.params["channels"] == [3, 0, 2] and "icc" not in opened.meta.params
        assert np.array_equal(opened.read([0])[0], _RGB[:64, :64])
        rule = CandidateRule.common([opened.meta.params])
        assert rule is not None and rule.channels == (3, 0, 2)
    assert verify_store(store, slide=path).sound
    (again,) = tile_slides(path, tmp_path / "o", _SPEC, channels=(3, 0, 2)).slides
    assert again.status == "skipped"
    audit = CliRunner().invoke(main, ["audit", str(path), "--level", "0", "--channels", "3,0,2"])
    assert audit.exit_code == 0, audit.output
    with pytest.raises(StoreError, match=r"was made with channels \[3, 0, 2\] instead of \[0, 1, 2\]"):
        tile_slide(path, tmp_path / "o", _SPEC, channels=(0, 1, 2))


def _swapped() -> bytes:
    """A profile of other primaries: sRGB's with red and blue exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


_PROFILE = _swapped()  # once: it states the second in which it was made


def _by_pillow(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    converted = ImageCms.profileToProfile(
        Image.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    return np.asarray(converted)


def _slide_with(path: Path, profile: bytes) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, _RGB, photometric="rgb", tile=(64, 64), iccprofile=profile)
    else:
        Image.fromarray(_RGB).save(path, icc_profile=profile)
    return path


@pytest.mark.parametrize(("name", "reader"), [("s.tif", "tiff"), ("s.tif", "openslide"), ("s.png", "image")])
def test_colors_are_converted_as_pillow_does(tmp_path: Path, name: str, reader: str) -> None:
    path = _slide_with(tmp_path / name, _PROFILE)
    with open_slide(path, reader=reader) as slide:
        assert slide.info.icc_profile == _PROFILE and ICC_STATE not in slide.info.properties
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), _RGB)
    with open_slide(path, reader=reader, icc="srgb") as slide:
        expected = _by_pillow(_RGB, _PROFILE)
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), expected)
        assert not np.array_equal(expected, _RGB)
        assert slide.info.properties[ICC_STATE].startswith("converted to sRGB from sRGB")


def test_a_conversion_is_recorded_and_told_and_never_silent(tmp_path: Path) -> None:
    path = _slide_with(tmp_path / "s.tif", _PROFILE)
    command = ["tile", str(path), "--level", "0", "--patch-size", "64", "--codec", "raw", "--min-tissue", "0"]
    plain = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "p")])
    done = CliRunner().invoke(main, [*command, "--icc", "srgb", "--out", str(tmp_path / "o")])
    assert (plain.exit_code, done.exit_code) == (0, 0), plain.output
    assert "converted to sRGB from" in done.output and "sRGB" not in plain.output
    with open_store(tmp_path / "p" / "s.h5") as store:
        kept = store.meta.icc_profile
        assert kept is not None and "(sha256 " in kept and "icc" not in store.meta.params
        assert np.array_equal(store.read([0])[0], _RGB[:64, :64])
    with open_store(tmp_path / "o" / "s.h5") as store:
        assert (store.meta.icc_profile, store.meta.params["icc"]) == (kept, "srgb")
        assert np.array_equal(store.read([0])[0], _by_pillow(_RGB, _PROFILE)[:64, :64])
    assert verify_store(tmp_path / "o" / "s.h5", slide=path).sound
    with pytest.raises(StoreError, match="was made with icc 'srgb' instead of 'keep'"):
        tile_slide(path, tmp_path / "o", _SPEC)


def test_profiles_that_cannot_be_used_and_slides_without_one(tmp_path: Path) -> None:
    with open_slide(_slide_with(tmp_path / "n.png", b""), icc="srgb") as slide:
        assert slide.info.properties[ICC_STATE].startswith("it has no ICC profile")
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), _RGB)
    with pytest.raises(RefusedSlideError, match=r"The ICC profile of 'd', damaged .* leave --icc srgb out"):
        open_slide(_slide_with(tmp_path / "d.tif", b"no profile at all" * 20), icc="srgb")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(RefusedSlideError, match=r"cannot be used \(it is of Lab colors\)"):
        open_slide(_slide_with(tmp_path / "l.tif", lab), icc="srgb")
