"""What one reader tiled is what another reads, at every level; where resolutions differ, `audit` says so."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from slide_formats import FORMATS

from wsitool.cli import main
from wsitool.curate import audit
from wsitool.curate.audit import audit_slides
from wsitool.curate.verifying import _is_between, verify_store
from wsitool.errors import SlideError
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import Codec, TileSpec
from wsitool.store import jpeg
from wsitool.testing.synthetic import draw_tissue, synthetic_slide
from wsitool.tiling.run import tile_slide

_SPEC = TileSpec(patch_size=100, level=0, codec="raw", min_tissue=0, tissue="none")


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("slides/CMU-1-Small-Region.svs", "openslide"),
        ("slides/CMU-1-Small-Region.svs", "tiffslide"),
        pytest.param("slides/tcga-cr-7395-01a-01-ts1.svs", "openslide", marks=pytest.mark.slow),
        pytest.param("slides/tcga-cr-7395-01a-01-ts1.svs", "tiffslide", marks=pytest.mark.slow),
        ("slides/boxes.tiff", "openslide"),
        ("slides/boxes.tiff", "tiffslide"),
        ("slides/breast_her2st_B4.tiff", "openslide"),
        pytest.param("slides/breast_her2st_B4.tiff", "tiffslide", marks=pytest.mark.slow),
        ("cases/slides/odd_downsample.tif", "openslide"),
        ("cases/slides/odd_downsample.tif", "tiffslide"),
        ("cases/slides/dicom_series", "openslide"),
    ],
)
def test_readers_agree_on_every_level(real_data: Path, tmp_path: Path, name: str, reader: str) -> None:
    path = real_data / name
    with open_slide(path) as slide:
        levels = [level for level in slide.info.levels if min(level.width, level.height) >= _SPEC.patch_size]
    for index in range(len(levels)):
        # Far from the corner, too, where OpenSlide interpolates most.
        spec = replace(_SPEC, level=index, stride=max(100, levels[index].width // 5))
        result = tile_slide(path, tmp_path / str(index), spec)
        report = verify_store(result.store, slide=path, reader=reader, samples=20)
        assert report.sound, [check.problem for check in report.checks]


@pytest.mark.parametrize("name", FORMATS)
def test_all_readers_of_a_format_agree_at_every_level(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file, write = FORMATS[name]
    needed = (request.getfixturevalue("real_data"),) if name == "DICOM" else ()
    path, channels = write(tmp_path / file, *needed), (0, 2, 3) if name == "fluorescence" else ()
    readers = [""]
    for reader in READERS.names():
        with contextlib.suppress(SlideError), open_slide(path, reader=reader, channels=channels):
            readers.append(reader)
    with open_slide(path, channels=channels) as slide:
        levels, info = slide.info.levels, slide.info
    assert len(levels) > 1 or name in ("fluorescence", "TIFF in strips", "Zeiss", "pictures")
    assert info.reader in readers
    for index in (i for i, level in enumerate(levels) if min(level.width, level.height) >= 100):
        spec = replace(_SPEC, level=index)
        result = tile_slide(path, tmp_path / str(index), spec, channels=channels)
        for reader in readers:
            with (
                contextlib.suppress(IndexError),
                open_slide(path, reader=reader or "auto", channels=channels) as other,
            ):
                if other.info.levels[index] != levels[index]:
                    continue  # OpenSlide and Pillow know the first level only of some
                report = verify_store(result.store, slide=path, reader=reader, samples=100)
                assert report.sound, (index, reader, [check.problem for check in report.checks])


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_pixels_that_are_interpolated_lie_between_neighbors_and_others_do_not(codec: Codec) -> None:
    """A patch that another reader moves by half a pixel is the same one, by two pixels another."""
    spec, pixels = TileSpec(codec=codec), draw_tissue(128, 128, kind="adh", mpp=0.5, seed=1)
    half = ((pixels.astype(int) + np.roll(pixels, 1, axis=1) + 1) // 2).astype(np.uint8)
    assert np.abs(half.astype(int) - pixels).max() > 9
    for stored, seen in ((pixels, half), (half, pixels), (pixels, pixels)):
        if codec == "jpeg":
            stored = jpeg.decode(jpeg.encode(stored, spec.quality))
        assert _is_between(seen, stored, spec)
        assert not _is_between(np.roll(seen, 2, axis=0), stored, spec)


def test_every_row_of_the_page_has_a_slide() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    rows = [line[2:] for line in page.splitlines() if line.startswith("| ") and "`test_" in line]
    # Scanners whose files nobody else can write, a kind that is refused, and what every format may have.
    others = ("`.ndpi`", "Olympus", "any of them")
    assert all(row.startswith((*FORMATS, *others)) for row in rows), rows


def test_the_command_takes_a_reader(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(600, 500))
    tile_slide(path, tmp_path / "o", _SPEC)
    for reader, code in (("openslide", 0), ("czi", 1), ("none", 2)):
        done = CliRunner().invoke(
            main, ["verify", str(tmp_path / "o"), "--slide", str(path), "--reader", reader]
        )
        assert done.exit_code == code, done.output


def test_audit_says_where_openslide_reads_another_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.tif"
    pixels = draw_tissue(600, 500, kind="benign", mpp=0.5, seed=3)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(64, 64), resolution=(20_000, 20_000), resolutionunit=3
    )
    spec = TileSpec(patch_size=100)
    (same,) = audit_slides(path, spec)
    assert same.mpp == pytest.approx(0.5) and not [text for text in same.warnings if "OpenSlide" in text]
    monkeypatch.setattr(audit, "stated_mpp", lambda _: 0.25)
    (other,) = audit_slides(path, spec)
    assert "its mpp is read as 0.5 here and as 0.25 by OpenSlide: check which is true (--default-mpp)" in (
        other.warnings
    )
    assert np.isclose(other.mpp or 0, 0.5)
    assert audit_slides(path, spec, default_mpp=0.3)[0].mpp == pytest.approx(0.5)
