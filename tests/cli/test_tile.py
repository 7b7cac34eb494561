"""`wsitool tile` as a person runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wsitool.cli import main
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import synthetic_slide


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["tile", *map(str, arguments)])


def test_three_slides_and_a_broken_one(real_data: Path, tmp_path: Path) -> None:
    names = ("CMU-1-Small-Region.svs", "breast_her2st_B4.tiff", "tcga-cr-7395-01a-01-ts1.svs", "broken.svs")
    result = run(*(real_data / "slides" / name for name in names), "--out", tmp_path / "o", "--level", 0)
    assert result.exit_code == 1
    assert "1 slide(s) failed" in result.stdout and "broken: No reader opens" in result.stdout
    assert "lossy" in result.stdout and "--codec raw" in result.stdout
    for name in names[:3]:
        stem = Path(name).stem
        with open_store(tmp_path / "o" / f"{stem}.h5") as store:
            assert len(store) > 40
        assert (tmp_path / "o" / "previews" / f"{stem}.jpg").stat().st_size > 5000
    with (tmp_path / "o" / "slides.csv").open(newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    assert [table[Path(name).stem]["status"] for name in names] == ["done"] * 3 + ["failed"]


def test_a_slide_without_mpp_says_how_to_go_on(real_data: Path, tmp_path: Path) -> None:
    slide = real_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    result = run(slide, "--mpp", 0.5, "--out", tmp_path)
    assert result.exit_code == 1
    assert "--default-mpp" in result.stdout and "--level 0" in result.stdout
    assert run(slide, "--mpp", 0.5, "--default-mpp", 0.25, "--out", tmp_path).exit_code == 0


def test_json_and_dry_run(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(900, 700))
    planned = run(slide, "--out", tmp_path / "o", "--patch-size", 64, "--dry-run")
    assert planned.exit_code == 0 and "would be kept; nothing was written" in planned.stdout
    assert not (tmp_path / "o").exists()
    result = run(slide, "--out", tmp_path / "o", "--patch-size", 64, "--json")
    found = json.loads(result.stdout)
    assert found["kept"] > 0 and found["slides"][0]["status"] == "done"
    assert f"{found['kept']:,} patches would be kept" in planned.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mpp", "0.5", "--level", "0"], "Give one of mpp, magnification and level"),
        (["--shard", "3/2"], "--shard must be i/N"),
        (["--codec", "png"], "png"),
        (["--min-tissue", "2"], "--min-tissue must be from 0 to 1"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, options: list[str], message: str) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(300, 300))
    result = run(slide, "--out", tmp_path / "o", *options)
    assert result.exit_code == 2 and message in result.output
    assert "Traceback" not in result.output


def test_zarr_with_label_and_group(tmp_path: Path) -> None:
    synthetic_slide(tmp_path / "a.svs", size=(600, 600))
    (tmp_path / "t.csv").write_text("path,label,group\na.svs,benign,p1\n")
    result = run(tmp_path / "t.csv", "--out", tmp_path / "o", "--patch-size", 64, "--format", "zarr")
    assert result.exit_code == 0, result.output
    with open_store(tmp_path / "o" / "a.zarr") as store:
        assert store.meta.group == "p1" and store.meta.classes == ("benign",)
