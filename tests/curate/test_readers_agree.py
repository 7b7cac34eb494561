"""What one reader tiled is what another reads, at every level; where resolutions differ, `audit` says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.curate import audit
from wsitool.curate.audit import audit_slides
from wsitool.curate.verifying import verify_store
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import draw_tissue, synthetic_slide
from wsitool.tiling.run import tile_slide

_SPEC = TileSpec(patch_size=100, level=0, codec="raw", min_tissue=0)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
@pytest.mark.parametrize(
    "name",
    [
        "slides/CMU-1-Small-Region.svs",
        pytest.param("slides/tcga-cr-7395-01a-01-ts1.svs", marks=pytest.mark.slow),
        "slides/boxes.tiff",
        "cases/slides/odd_downsample.tif",
        "cases/slides/dicom_series",
    ],
)
def test_readers_agree_on_every_level(real_data: Path, tmp_path: Path, name: str, reader: str) -> None:
    path = real_data / name
    if path.is_dir() and reader == "tiffslide":
        pytest.skip("tiffslide reads no DICOM")
    with open_slide(path) as slide:
        levels = [level for level in slide.info.levels if min(level.width, level.height) >= _SPEC.patch_size]
    for index in range(len(levels)):
        result = tile_slide(path, tmp_path / str(index), replace(_SPEC, level=index))
        report = verify_store(result.store, slide=path, reader=reader, samples=6)
        assert report.sound, [check.problem for check in report.checks]


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
