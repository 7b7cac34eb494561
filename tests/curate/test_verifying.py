"""Verification finds every kind of damage, and nothing on sound stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.curate.verifying import spec_of, verify_store, verify_stores
from wsitool.errors import StoreError, UsageError
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_slide(tmp_path_factory.mktemp("slides") / "s.svs", size=(1500, 1300), glass=0.1)


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
@pytest.mark.parametrize(
    "spec",
    [
        TileSpec(patch_size=128, level=0, codec="raw"),
        TileSpec(patch_size=128, level=0),
        TileSpec(patch_size=64, level=1, stride=32),
        TileSpec(patch_size=100, mpp=0.81, codec="raw"),
        TileSpec(patch_size=128, mpp=1.0, resample="fast"),
        TileSpec(patch_size=256, level=0, codec="native"),
    ],
    ids=lambda spec: f"{spec.codec}-{spec.mpp}-{spec.level}",
)
def test_sound_stores_agree_with_their_slide(
    slide: Path, tmp_path: Path, spec: TileSpec, format: str
) -> None:
    result = tile_slide(slide, tmp_path, spec, format=format)  # type: ignore[arg-type]
    report = verify_store(result.store, slide=slide)
    assert report.sound, report
    assert len(report.checks) == 7 and report.patches == result.kept


def test_the_options_of_a_store_are_read_back(slide: Path, tmp_path: Path) -> None:
    spec = TileSpec(patch_size=128, mpp=1.0, stride=100, min_tissue=0.3)
    with open_store(tile_slide(slide, tmp_path, spec).store) as store:
        assert spec_of(store.meta) == spec
        with pytest.raises(StoreError, match="wsitool tile"):
            spec_of(replace(store.meta, params={"command": "import"}))


def _problems(path: str | Path, **options: object) -> dict[str, str]:
    report = verify_store(path, **options)  # type: ignore[arg-type]
    assert not report.sound
    return {check.name: check.problem for check in report.checks if check.problem}


def test_another_slide_is_noticed(slide: Path, tmp_path: Path) -> None:
    result = tile_slide(slide, tmp_path, TileSpec(patch_size=128, level=0))
    other = synthetic_slide(tmp_path / "s.svs", size=(1500, 1300), seed=9)
    assert "another file" in _problems(result.store, slide=other)["same as the slide"]


def test_pixels_that_are_not_the_slides_are_noticed(slide: Path, tmp_path: Path) -> None:
    result = tile_slide(slide, tmp_path, TileSpec(patch_size=128, level=0, codec="raw"))
    with h5py.File(result.store, "r+") as file:
        patch = file["patches"][3]
        patch[5, 5, 0] ^= 1
        file["patches"][3] = patch
    found = _problems(result.store, slide=slide, samples=10_000)
    assert "patch 3" in found["same as the slide"] and "1 grey levels" in found["same as the slide"]
    assert "expected" in found["content hash"]


@pytest.mark.parametrize("column", ["coords", "candidates/reason", "encoded/blob", "attribute"])
def test_damage_is_named(slide: Path, tmp_path: Path, column: str) -> None:
    result = tile_slide(slide, tmp_path, TileSpec(patch_size=128, level=0))
    with h5py.File(result.store, "r+") as file:
        if column == "attribute":
            del file.attrs["content_hash"]
        elif column == "encoded/blob":
            file[column][:2000] = np.zeros(2000, np.uint8)
        elif column == "coords":
            file[column][:2] = file[column][:2][::-1]
        else:
            file[column][np.flatnonzero(file[column][:] == 0)[0]] = 1
    found = _problems(result.store)
    wanted = {
        "coords": {"counts", "order", "content hash"},
        "candidates/reason": {"counts"},
        "encoded/blob": {"patches decode", "content hash"},
        "attribute": {"opens"},
    }[column]
    assert set(found) == wanted, found


def test_a_truncated_store_is_reported_and_exits_1(slide: Path, tmp_path: Path) -> None:
    good = Path(tile_slide(slide, tmp_path / "out", TileSpec(patch_size=128, level=0)).store)
    bad = good.with_name("bad.h5")
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    run = CliRunner().invoke(main, ["verify", str(good.parent)])
    assert run.exit_code == 1
    assert f"ok       {good}" in run.output and f"DAMAGED  {bad}" in run.output
    assert CliRunner().invoke(main, ["verify", str(good), "--slide", str(slide)]).exit_code == 0


def test_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no patch store"):
        verify_stores(tmp_path)
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="folder of their slides"):
        verify_stores(tmp_path, slide=tmp_path / "a.h5")


def test_other_programs_files_are_no_damage(slide: Path, tmp_path: Path) -> None:
    store = Path(tile_slide(slide, tmp_path / "out", TileSpec(patch_size=128, level=0)).store)
    run = CliRunner().invoke(main, ["export", str(store), "--to", "clam", "--out", str(tmp_path / "clam")])
    assert run.exit_code == 0, run.output
    theirs = next((tmp_path / "clam").rglob("*.h5"))
    for path in (theirs, theirs.parent):
        run = CliRunner().invoke(main, ["verify", str(path)])
        assert run.exit_code == 2 and "not a wsitool patch store but positions of patches" in run.output
    theirs.rename(store.with_name("theirs.h5"))
    run = CliRunner().invoke(main, ["verify", str(store.parent)])
    assert run.exit_code == 0 and f"ok       {store}" in run.output
    assert "not a store: " in run.output and "DAMAGED" not in run.output
    with h5py.File(store, "r+") as file:
        file.attrs["group"] = "another patient"
    run = CliRunner().invoke(main, ["verify", str(store.parent)])
    assert run.exit_code == 1 and f"CHANGED  {store}" in run.output
