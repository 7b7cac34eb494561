"""Many slides: what fails alone, what is resumed, what a killed run leaves, who holds which lock."""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsitool.errors import UsageError
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.results import SLIDES_CSV
from wsitool.tiling.run import tile_slides

_COMMAND = [sys.executable, "-c", "from wsitool.cli import main; main()", "tile"]
_SPEC = TileSpec(patch_size=64, mpp=0.5)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    kinds = ("jpeg", "jpeg2000", "jpeg")
    return [
        synthetic_slide(folder / f"p{i}_s.svs", size=(768, 512), seed=i, compression=kind)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    ]


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / SLIDES_CSV).open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*.h5")):
        with open_store(path) as store:
            assert len(store.read(range(len(store)))) == len(store) > 0
            found[path.name] = store.content_hash
    return found


def test_one_bad_slide_leaves_the_others_alone(slides: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"not a slide")
    result = tile_slides([*slides, bad, tmp_path / "absent.svs"], tmp_path / "o", _SPEC, workers=2)
    assert [slide.status for slide in result.slides] == ["done"] * 3 + ["failed"] * 2
    assert "There is no file" in result.slides[4].reason
    table = rows(tmp_path / "o")
    assert len(table) == 5 and table["bad"]["status"] == "failed" and "No reader" in table["bad"]["reason"]
    assert int(table["p0_s"]["kept"]) == result.slides[0].kept > 0
    assert len(hashes(tmp_path / "o")) == 3


def test_worker_count_and_shards_do_not_change_the_stores(slides: list[Path], tmp_path: Path) -> None:
    tile_slides(slides, tmp_path / "one", _SPEC, workers=1)
    tile_slides(slides, tmp_path / "two", _SPEC, workers=2)
    for part in (1, 2):
        tile_slides(slides, tmp_path / "parts", _SPEC, shard=f"{part}/2")
    expected = hashes(tmp_path / "one")
    assert len(expected) == 3
    assert expected == hashes(tmp_path / "two") == hashes(tmp_path / "parts")
    assert len(rows(tmp_path / "parts")) == 3


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_malformed_shard(slides: list[Path], tmp_path: Path, shard: str) -> None:
    with pytest.raises(UsageError, match="shard must be i/N"):
        tile_slides(slides, tmp_path, _SPEC, shard=shard)


def test_a_crashed_decoder_costs_one_slide(
    slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loaded by every Python that starts: the JPEG 2000 decoder of the workers dies as from a bad pointer.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, imagecodecs\n"
        "imagecodecs.jpeg2k_decode = lambda *a, **k: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = tile_slides(slides, tmp_path / "o", _SPEC, workers=1)
    assert [slide.status for slide in result.slides] == ["done", "failed", "done"]
    assert "SIGSEGV" in result.slides[1].reason
    monkeypatch.delenv("PYTHONPATH")
    again = tile_slides(slides, tmp_path / "o", _SPEC, workers=1)
    assert [slide.status for slide in again.slides] == ["skipped", "done", "skipped"]
    assert not list((tmp_path / "o").glob(".*"))


def test_finished_slides_are_skipped_only_if_nothing_changed(slides: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "o"
    slide = Path(shutil.copy(slides[0], tmp_path / "s.svs"))
    first = tile_slides([slide], out, _SPEC).slides[0]
    again = tile_slides([slide], out, _SPEC).slides[0]
    assert (again.status, again.kept, again.content_hash) == ("skipped", first.kept, first.content_hash)
    changed = tile_slides([slide], out, TileSpec(patch_size=64, min_tissue=0.9)).slides[0]
    assert changed.status == "failed" and "min_tissue 0.5 instead of 0.9" in changed.reason
    assert "--overwrite" in changed.reason
    assert rows(out)["s"]["status"] == "done", "the store is still there"
    shutil.copy(slides[2], slide)
    replaced = tile_slides([slide], out, _SPEC).slides[0]
    assert replaced.status == "failed" and "another one now" in replaced.reason
    redone = tile_slides([slide], out, _SPEC, overwrite=True).slides[0]
    assert redone.status == "done" and redone.content_hash != first.content_hash


def test_a_damaged_store_is_made_again(slides: list[Path], tmp_path: Path) -> None:
    first = tile_slides([slides[0]], tmp_path, _SPEC).slides[0]
    with Path(first.store).open("r+b") as file:
        file.truncate(Path(first.store).stat().st_size // 2)
    again = tile_slides([slides[0]], tmp_path, _SPEC).slides[0]
    assert (again.status, again.content_hash) == ("done", first.content_hash)


def _kill_at(moments: list[float], slides: list[Path], tmp_path: Path) -> None:
    names = [str(path) for path in slides]
    options = ["--patch-size", "64", "--workers", "2"]
    subprocess.run(
        [*_COMMAND, *names, "--out", str(tmp_path / "whole"), *options], check=True, capture_output=True
    )
    expected = hashes(tmp_path / "whole")
    for number, moment in enumerate(moments):
        out = tmp_path / f"k{number}"
        with subprocess.Popen(
            [*_COMMAND, *names, "--out", str(out), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(moment)
            process.kill()
        visible = hashes(out) if out.exists() else {}
        assert visible.items() <= expected.items(), "what is there is complete"
        again = subprocess.run(
            [*_COMMAND, *names, "--out", str(out), *options], capture_output=True, text=True
        )
        assert again.returncode == 0, again.stdout + again.stderr
        assert hashes(out) == expected
        assert not list(out.glob(".*")), "no leftovers"
        assert {row["status"] for row in rows(out).values()} <= {"done", "skipped"} and len(rows(out)) == 3


@pytest.mark.parametrize("moments", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment(slides: list[Path], tmp_path: Path, moments: int) -> None:
    rng = random.Random(5)
    _kill_at([rng.uniform(0.3, 3.0) for _ in range(moments)], slides, tmp_path)


def test_two_runs_into_one_folder(slides: list[Path], tmp_path: Path) -> None:
    command = [*_COMMAND, *map(str, slides), "--out", str(tmp_path / "o"), "--patch-size", "64"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    for process in both:
        process.communicate()
    assert {process.returncode for process in both} <= {0, 1}
    tile_slides(slides, tmp_path / "alone", TileSpec(patch_size=64))
    assert hashes(tmp_path / "o") == hashes(tmp_path / "alone")
    assert all(row["status"] == "done" for row in rows(tmp_path / "o").values())


def test_dry_run_writes_nothing_and_agrees(slides: list[Path], tmp_path: Path) -> None:
    planned = tile_slides(slides, tmp_path / "o", _SPEC, dry_run=True)
    assert not (tmp_path / "o").exists()
    done = tile_slides(slides, tmp_path / "o", _SPEC)
    assert [slide.kept for slide in planned.slides] == [slide.kept for slide in done.slides]
    assert {slide.decoded_tiles for slide in planned.slides} == {0}
    assert {slide.status for slide in planned.slides} == {"planned"}


def test_csv_gives_mpp_group_and_label(slides: list[Path], tmp_path: Path) -> None:
    bare = synthetic_slide(tmp_path / "bare.svs", size=(512, 512), mpp=None)
    table = tmp_path / "list.csv"
    table.write_text(
        f"path,label,group,mpp\n{slides[0]},benign,patient1,\nbare.svs,dcis,,0.5\n{slides[2]},,,\n"
    )
    result = tile_slides([table], tmp_path / "o", _SPEC)
    assert [slide.status for slide in result.slides] == ["done"] * 3
    with open_store(result.slides[1].store) as store:
        assert store.meta.classes == ("benign", "dcis") and store.meta.group == bare.stem
        assert store.labels is not None and set(store.labels.tolist()) == {1}
        assert store.meta.mpp_level0 == 0.5
    with open_store(result.slides[2].store) as store:
        assert store.labels is not None and set(store.labels.tolist()) == {-1}
    assert result.slides[0].group == "patient1"


def test_find_slides(slides: list[Path], tmp_path: Path) -> None:
    found = find_slides([slides[0].parent], group_regex="^(p[0-9])_")
    assert [(slide.name, slide.group) for slide in found] == [(f"p{i}_s", f"p{i}") for i in range(3)]
    assert find_slides(["s3://b/x.svs"]) == (SlideInput(path="s3://b/x.svs"),)
    (tmp_path / "empty").mkdir()
    (tmp_path / "p0_s.tiff").write_bytes(b"")
    (tmp_path / "bad.csv").write_text("file\nx\n")
    for inputs, regex, message in (
        ([tmp_path / "empty"], None, "no slide in the folder"),
        ([slides[0]], "(", "is not a regular expression"),
        ([slides[0]], "q", "finds no group"),
        ([tmp_path / "bad.csv"], None, "needs a column 'path'"),
        ([tmp_path / "none.csv"], None, "no file"),
        ([], None, "Name at least one slide"),
    ):
        with pytest.raises(UsageError, match=message):
            find_slides(inputs, group_regex=regex)  # type: ignore[arg-type]


def test_a_name_that_is_taken_stops_one_slide(slides: list[Path], tmp_path: Path) -> None:
    """The same file name in two folders is how many labs keep slides; the others are tiled all the same."""
    (tmp_path / "other").mkdir()
    clash = shutil.copy(slides[1], tmp_path / "other" / slides[0].name)
    for _ in range(2):  # and the same again
        result = tile_slides([slides[0], clash, slides[2]], tmp_path / "o", _SPEC)
        assert [slide.name for slide in result.slides] == ["p0_s", "p0_s (2)", "p2_s"]
        assert [slide.status for slide in result.slides][1] == "failed"
        assert result.slides[1].reason.startswith("It would become the store 'p0_s', as '")
        assert sorted(path.name for path in (tmp_path / "o").glob("*.h5")) == ["p0_s.h5", "p2_s.h5"]
        with open_store(tmp_path / "o" / "p0_s.h5") as store:
            assert Path(store.meta.source).parent == slides[0].parent
    assert [slide.status for slide in result.slides] == ["skipped", "failed", "skipped"]


def test_a_preview_that_is_missing_is_drawn_again(slides: list[Path], tmp_path: Path) -> None:
    """As after a kill between a store and its preview: the re-run's picture is an undisturbed run's."""
    tile_slides(slides[:1], tmp_path / "o", _SPEC)
    preview, store = tmp_path / "o" / "previews" / "p0_s.jpg", tmp_path / "o" / "p0_s.h5"
    drawn, inode = preview.read_bytes(), store.stat().st_ino
    preview.unlink()
    assert tile_slides(slides[:1], tmp_path / "o", _SPEC).slides[0].status == "skipped"
    assert preview.read_bytes() == drawn and store.stat().st_ino == inode


def test_leftovers_of_a_slide_with_brackets_in_its_name_are_removed(
    slides: list[Path], tmp_path: Path
) -> None:
    slide = shutil.copy(slides[0], tmp_path / "s[1].svs")
    out = tmp_path / "o"
    out.mkdir()
    (out / ".s[1].h5.abcd1234.partial").touch()
    tile_slides([slide], out, _SPEC)
    assert sorted(path.name for path in out.iterdir()) == ["previews", "s[1].h5", "slides.csv"]


@pytest.mark.parametrize("name", ["a\nb", ".s", "CON", "s" * 240])
def test_a_slide_whose_name_is_no_file_name_is_tiled(slides: list[Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    slide = shutil.copy(slides[0], tmp_path / "in" / f"{name}.svs")
    result = tile_slides([slide], tmp_path / "o", _SPEC)
    assert result.slides[0].status == "done" and result.slides[0].name == name
    (store,) = (tmp_path / "o").glob("*.h5")
    assert str(store) == result.slides[0].store and not store.name.startswith(".")
    with open_store(store) as opened:
        assert opened.meta.name == name
    assert tile_slides([slide], tmp_path / "o", _SPEC).slides[0].status == "skipped"
