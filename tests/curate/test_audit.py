"""The audit tells what tiling would do, and what is wrong with a file, before anything is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.curate.audit import _with_duplicates, audit_slides
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide


def test_estimates_are_what_tiling_gives(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(2600, 2200), glass=0.3)
    for spec in (TileSpec(patch_size=224, level=0), TileSpec(patch_size=100, mpp=0.7), TileSpec(mpp=1.0)):
        audit = audit_slides([path], spec)[0]
        done = tile_slide(path, tmp_path / "out", spec, overwrite=True)
        assert audit.error == "" and audit.warnings == ()
        assert (audit.patches, audit.candidates, audit.counts["kept"]) == (
            done.kept,
            done.candidates,
            done.kept,
        )
        assert (audit.read_level, audit.mpp_effective) == (done.level, done.mpp_effective)
    raw = audit_slides([path], TileSpec(level=0, codec="raw"))[0]
    assert raw.patches is not None and raw.bytes == raw.patches * 224 * 224 * 3
    for spec in (TileSpec(level=0), TileSpec(patch_size=128, mpp=1.3)):
        jpeg = audit_slides([path], spec)[0]
        with open_store(tile_slide(path, tmp_path / "j", spec, overwrite=True).store) as store:
            stored = sum(map(len, store.encoded(range(len(store)))))
        assert jpeg.bytes == pytest.approx(stored, rel=0.3)


def test_real_slides_and_bad_files(real_data: Path) -> None:
    found = {audit.name: audit for audit in audit_slides([real_data / "slides"], TileSpec(level=0))}
    assert found["CMU-1-Small-Region"].patches == 46 and found["CMU-1-Small-Region"].reader == "tiff"
    assert found["breast_her2st_B4"].downsamples == pytest.approx((1, 2, 4, 8, 16), rel=2e-3)
    assert "no resolution" in found["tcga-cr-7395-01a-01-ts1"].warnings[0]
    assert found["kidney-48-5"].reader == "image" and "lower a threshold" in found["kidney-48-5"].error
    assert found["unreadable"].error.startswith(
        "no tile of it can be decoded: 1 of 1 tiles probed at level 0"
    )
    with_mpp = {audit.name: audit for audit in audit_slides([real_data / "slides"], TileSpec())}
    unknown = with_mpp["tcga-cr-7395-01a-01-ts1"]
    assert "--default-mpp" in unknown.error and unknown.warnings == ()  # said once
    for name in ("broken", "unopenable", "small"):
        assert found[name].error, name


def test_damage_duplicates_and_contradictions_are_named(tmp_path: Path) -> None:
    good = synthetic_slide(tmp_path / "good.svs", size=(1500, 1500), glass=0.1)
    shutil.copy(good, tmp_path / "twin.svs")
    holed = bytearray(good.read_bytes())
    start = len(holed) // 3
    holed[start : start + len(holed) // 4] = bytes(len(holed) // 4)
    (tmp_path / "holed.svs").write_bytes(holed)
    lying = synthetic_slide(tmp_path / "lying.svs", size=(600, 600), mpp=0.5, glass=0.1).read_bytes()
    assert b"MPP = 0.5" in lying or b"MPP=0.5" in lying
    (tmp_path / "lying.svs").write_bytes(
        lying.replace(b"MPP = 0.5", b"MPP = 1.5").replace(b"MPP=0.5", b"MPP=1.5")
    )
    found = {audit.name: audit for audit in audit_slides([tmp_path], TileSpec(level=0))}
    assert "same content as twin" in found["good"].warnings[0]
    assert any("unreadable" in warning for warning in found["holed"].warnings)
    assert any("contradicts" in warning for warning in found["lying"].warnings)
    # Of many only some are named, or ten thousand copies would each name all the others.
    many = [replace(found["good"], name=f"s{number}", warnings=()) for number in range(9)]
    assert _with_duplicates(many)[2].warnings == ("has the same content as s0, s1, s3, s4, s5 and 3 more",)
    assert _with_duplicates(many[:6])[5].warnings == ("has the same content as s0, s1, s2, s3, s4",)
    assert found["holed"].fingerprint != found["good"].fingerprint


def test_the_table_fits_100_columns(tmp_path: Path) -> None:
    name = "TCGA-CR-7395-01A-01-TS1.8be43ad1-6d05-4a48-9d9b-2b9f9a3a3c5f-and-more-of-it"
    synthetic_slide(tmp_path / f"{name}.svs", size=(4200, 1000), glass=0.1, levels=(1, 2, 4, 8))
    told = CliRunner().invoke(main, ["audit", str(tmp_path)]).output.splitlines()
    assert max(map(len, told[:3])) <= 100
    assert told[2].startswith("TCGA-CR") and "..." in told[2] and "of-it  4200x1000" in told[2]


def test_command_line(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(1200, 1000), glass=0.1)
    run = CliRunner().invoke(main, ["audit", str(path)])
    assert run.exit_code == 0, run.output
    assert "1 of 1 slides can be tiled" in run.output and "1200x1000" in run.output
    bad = CliRunner().invoke(main, ["audit", str(path), str(tmp_path / "absent.svs"), "--json"])
    rows = json.loads(bad.stdout)
    assert bad.exit_code == 1 and rows[0]["patches"] > 0 and "absent.svs" in rows[1]["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.svs"]
