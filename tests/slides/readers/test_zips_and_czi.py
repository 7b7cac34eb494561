"""Slides within a zip, of Zeiss, and of makers whose files are refused by a sentence that helps."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsitool.errors import RefusedSlideError, UnsupportedSlideError
from wsitool.slides.readers import fingerprint, open_slide
from wsitool.slides.slide_list import find_slides
from wsitool.testing.synthetic import draw_tissue, synthetic_slide

_RGB = draw_tissue(700, 520, kind="benign", mpp=0.5, seed=3)


def _zipped(path: Path, *files: Path, packed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, f"folder/{file.name}")
        archive.writestr("__MACOSX/._s.svs", b"?")
    return path


def test_a_slide_stored_in_a_zip_is_read_there(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(600, 500))
    archive = _zipped(tmp_path / "z.zip", slide)
    assert fingerprint(archive) == fingerprint(slide)
    with open_slide(archive) as inside, open_slide(slide) as plain:
        assert (inside.info.name, inside.info.reader, inside.info.mpp) == ("z", "tiff", plain.info.mpp)
        for index, level in enumerate(plain.info.levels):
            size = (level.width, level.height)
            expected = plain.read_region(0, 0, index, *size)
            assert np.array_equal(inside.read_region(0, 0, index, *size), expected)
        inside.check_unchanged()


def test_zips_of_which_no_part_can_be_read_say_what_to_do(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(600, 500))
    other = synthetic_slide(tmp_path / "t.svs", size=(600, 500))
    with pytest.raises(
        UnsupportedSlideError, match=r"'folder/s.svs' is packed within 'p.zip' \(0 MB unpacked\)"
    ):
        open_slide(_zipped(tmp_path / "p.zip", slide, packed=True))
    with pytest.raises(UnsupportedSlideError, match=r"is a zip of 2 files .*: unpack it and name the slide"):
        open_slide(_zipped(tmp_path / "2.zip", slide, other))
    with pytest.raises(UnsupportedSlideError, match=r"'folder/2.zip' is a zip within 'z.zip': unpack it"):
        open_slide(_zipped(tmp_path / "z.zip", tmp_path / "2.zip"))
    zipfile.ZipFile(tmp_path / "0.zip", "w").close()
    with pytest.raises(UnsupportedSlideError, match=r"'0.zip' is a zip of 0 files .* unpack it"):
        open_slide(tmp_path / "0.zip")
    broken = _zipped(tmp_path / "b.zip", slide)
    broken.write_bytes(broken.read_bytes()[:-60])
    with pytest.raises(UnsupportedSlideError, match="is a damaged zip"):
        open_slide(broken)


def _czi(path: Path, *planes: np.ndarray, at: tuple[int, int] = (50, 70)) -> Path:
    """Planes (h, w, c), blue first where they have colors, by Zeiss's own library."""
    from pylibCZIrw.czi import create_czi

    with create_czi(str(path)) as writer:
        for channel, pixels in enumerate(planes):
            for y in range(0, pixels.shape[0], 256):
                for x in range(0, pixels.shape[1], 256):
                    tile = np.ascontiguousarray(pixels[y : y + 256, x : x + 256])
                    place = (at[0] + x, at[1] + y)
                    writer.write(tile, location=place, plane={"C": channel}, compression_options="zstd1:")
        writer.write_metadata("slide", scale_x=0.25e-6, scale_y=0.25e-6)
    return path


def test_a_czi_file_is_what_zeiss_wrote(tmp_path: Path) -> None:
    with open_slide(_czi(tmp_path / "s.czi", _RGB[..., ::-1])) as slide:
        assert (slide.info.reader, slide.info.mpp, slide.info.width, slide.info.height) == (
            "czi",
            0.25,
            700,
            520,
        )
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520), _RGB)
        assert np.array_equal(slide.read_region(650, 500, 0, 40, 20), _RGB[500:520, 650:690])
        assert (slide.read_region(690, 0, 0, 20, 1)[:, 10:] == 255).all()


def test_channels_of_a_czi_file_are_chosen(tmp_path: Path) -> None:
    path = _czi(tmp_path / "s.czi", *(_RGB[..., i : i + 1] for i in (2, 0, 1)))
    with pytest.raises(RefusedSlideError, match="holds 3 channels and no colors"):
        open_slide(path, reader="czi")
    with open_slide(path, channels=(1, 2, 0)) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520), _RGB)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _czi(tmp_path / "s.czi", _RGB[..., ::-1])
    monkeypatch.setitem(sys.modules, "pylibCZIrw.czi", None)
    with pytest.raises(
        UnsupportedSlideError, match=r"czi: CZI files need another package: pip install 'wsitool\[czi\]'"
    ):
        open_slide(path)


def test_what_holds_no_pixels_is_not_shown(tmp_path: Path) -> None:
    label = tmp_path / "s.vsi"
    tifffile.imwrite(label, _RGB[:90, :70], photometric="rgb")
    with pytest.raises(RefusedSlideError, match=r"holds the label only.*\.ets files"):
        open_slide(label)
    mrxs = tmp_path / "m.mrxs"
    mrxs.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(RefusedSlideError, match=r"with the folder 'm' beside it, .* \(it is not there\)"):
        open_slide(mrxs)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Slidedat.ini").write_text("[GENERAL]\n")
    with pytest.raises(RefusedSlideError, match=r"beside it, and OpenSlide refuses them \(.*SLIDE_ID"):
        open_slide(mrxs)
    with pytest.raises(UnsupportedSlideError, match=r"holds the data of a slide: name '.*m\.mrxs'"):
        open_slide(tmp_path / "m")
    assert [slide.path for slide in find_slides(tmp_path / "m")] == [str(mrxs)]
