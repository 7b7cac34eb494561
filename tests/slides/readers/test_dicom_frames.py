"""DICOM tiles decoded here are OpenSlide's pixels, whatever the codec; other kinds are left to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless

from wsitool.errors import RegionReadError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.dicom_frames import FrameLevel
from wsitool.slides.spec import TileSpec
from wsitool.tiling.run import tile_slide


@pytest.fixture
def series(real_data: Path) -> Path:
    folder = real_data / "cases" / "slides" / "dicom_series"
    if not folder.is_dir():
        pytest.skip("these test data have no DICOM series")
    return folder


def _written(series: Path, folder: Path, kind: str) -> Path:
    """The series' second level by itself, by pydicom: packed as `kind` says."""
    folder.mkdir()
    dataset = pydicom.dcmread(series / "1.dcm")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    stored = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    if kind in ("jpeg2000", "reversible", "raw"):
        pixels = [imagecodecs.jpeg8_decode(frame) for frame in stored]
        dataset.PhotometricInterpretation = {"jpeg2000": "YBR_ICT", "reversible": "YBR_RCT"}.get(kind, "RGB")
        syntax = {"jpeg2000": JPEG2000, "reversible": JPEG2000Lossless, "raw": ExplicitVRLittleEndian}[kind]
        dataset.file_meta.TransferSyntaxUID = syntax
        if kind == "raw":
            dataset.PixelData = b"".join(frame.tobytes() for frame in pixels)
            dataset["PixelData"].is_undefined_length = False
        else:
            level = 0 if kind == "reversible" else 80
            options: dict[str, Any] = {
                "level": level,
                "codecformat": "j2k",
                "reversible": kind == "reversible",
            }
            stored = [imagecodecs.jpeg2k_encode(frame, mct=True, **options) for frame in pixels]
    if kind == "extended":
        dataset.PixelData, offsets, lengths = encapsulate_extended(stored)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    elif kind == "no table":
        dataset.PixelData = encapsulate(stored, has_bot=False)
    elif kind == "fragments":
        dataset.PixelData = encapsulate(stored, fragments_per_frame=3)
    elif kind == "sparse":
        dataset.DimensionOrganizationType = "TILED_SPARSE"
    elif kind != "raw":
        dataset.PixelData = encapsulate(stored)
    dataset.save_as(folder / "s.dcm")
    return folder


def _by_openslide(path: Path) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


@pytest.mark.parametrize(
    "kind", ["jpeg", "no table", "extended", "fragments", "jpeg2000", "reversible", "raw"]
)
def test_every_pixel_is_openslides(series: Path, tmp_path: Path, kind: str) -> None:
    folder = _written(series, tmp_path / "d", kind)
    try:
        expected = _by_openslide(folder / "s.dcm")
    except openslide.OpenSlideError as error:
        pytest.skip(f"OpenSlide does not read this kind: {error}")
    with open_slide(folder) as slide:
        assert isinstance(slide.tiles(0), FrameLevel) and slide.info.reader == "openslide"
        shown = slide.read_region(0, 0, 0, slide.info.width, slide.info.height)
    assert np.array_equal(shown, expected)


def test_every_level_of_a_series_is_decoded_here_and_once(series: Path, tmp_path: Path) -> None:
    with open_slide(series) as slide, openslide.OpenSlide(series / "0.dcm") as other:
        for index, level in enumerate(slide.info.levels):
            assert isinstance(slide.tiles(index), FrameLevel)
            expected = np.asarray(other.read_region((0, 0), index, (level.width, level.height)))[..., :3]
            assert np.array_equal(slide.read_region(0, 0, index, level.width, level.height), expected)
    for codec, size in (("raw", 100), ("native", 256)):
        spec = TileSpec(patch_size=size, level=0, codec=codec, min_tissue=0)  # type: ignore[arg-type]
        result = tile_slide(series, tmp_path / codec, spec)
        assert result.unreadable == 0 and result.decoded_tiles == (
            result.needed_tiles if codec == "raw" else 0
        )


def test_what_is_of_another_kind_is_read_by_openslide(series: Path, tmp_path: Path) -> None:
    folder = _written(series, tmp_path / "d", "jpeg")
    (folder / "t.dcm").write_bytes((folder / "s.dcm").read_bytes())  # which of two is the level?
    (folder / "u.dcm").write_bytes(b"no DICOM")
    with open_slide(folder / "s.dcm") as slide:
        assert not isinstance(slide.tiles(0), FrameLevel)


def test_a_damaged_frame_costs_its_own_tile(series: Path, tmp_path: Path) -> None:
    folder = _written(series, tmp_path / "d", "jpeg")
    path = folder / "s.dcm"
    data = bytearray(path.read_bytes())
    places = [at for at in range(len(data) - 4) if data[at : at + 4] == b"\xff\xd8\xff\xe0"] or [
        at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"
    ]
    data[places[1] : places[1] + 2] = b"\0\0"
    path.write_bytes(data)
    with open_slide(folder) as slide:
        tiles = slide.tiles(0)
        tiles.decode(0, 0)
        with pytest.raises(RegionReadError, match="tile column 1, row 0 of level 0 cannot be read"):
            tiles.decode(1, 0)
        path.write_bytes(data[: places[3]])
        with pytest.raises(RegionReadError, match="the file ends before it does"):
            tiles.decode(0, 2)
