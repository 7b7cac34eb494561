"""Other thresholds give the store that tiling with them would have given."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wsitool.base import partial
from wsitool.cli import main
from wsitool.curate.importing import import_images
from wsitool.curate.refiltering import refilter
from wsitool.curate.verifying import verify_store
from wsitool.errors import NoTissueError, StoreError, UsageError
from wsitool.slides.limits import rejects
from wsitool.slides.spec import Limit, QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide, tile_slides

SPEC = TileSpec(patch_size=64, level=0, min_tissue=0.3, limits=QualityThresholds().limits)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_slide(tmp_path_factory.mktemp("slides") / "s.svs", size=(1200, 1000), glass=0.5)


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_dropping_gives_what_tiling_gives(slide: Path, tmp_path: Path, format: str, codec: str) -> None:
    options = {"format": format}
    spec = replace(SPEC, codec=codec)  # type: ignore[arg-type]
    first = tile_slide(slide, tmp_path / "a", spec, **options)  # type: ignore[arg-type]
    direct = tile_slide(slide, tmp_path / "b", replace(spec, min_tissue=0.8), **options)  # type: ignore[arg-type]
    done = refilter(first.store, {"min_tissue": 0.8})
    assert 0 < done.after == direct.kept < done.before == first.kept
    assert (done.dropped, done.added) == (first.kept - direct.kept, 0)
    with open_store(first.store) as found, open_store(direct.store) as wanted:
        assert found.content_hash == wanted.content_hash
        assert found.counts == wanted.counts == {**wanted.counts, **done.counts}
        assert found.meta.params == wanted.meta.params
    assert verify_store(first.store, slide=slide).sound


def test_bringing_back_needs_the_slide(slide: Path, tmp_path: Path) -> None:
    first = tile_slide(slide, tmp_path / "a", replace(SPEC, min_tissue=0.8), group="patient")
    direct = tile_slide(slide, tmp_path / "b", SPEC, group="patient")
    before = Path(first.store).read_bytes()
    with pytest.raises(StoreError, match="--slide"):
        refilter(first.store, {"min_tissue": 0.3})
    other = synthetic_slide(tmp_path / "s.svs", size=(1200, 1000), seed=8)
    with pytest.raises(StoreError, match="another file"):
        refilter(first.store, {"min_tissue": 0.3}, slide=other)
    assert Path(first.store).read_bytes() == before
    done = refilter(first.store, {"min_tissue": 0.3}, slide=slide)
    assert (done.after, done.added) == (direct.kept, direct.kept - first.kept)
    with open_store(first.store) as found, open_store(direct.store) as wanted:
        assert found.content_hash == wanted.content_hash and found.meta.group == "patient"
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name[0] != ".") == [
        "previews",
        "s.h5",
    ]
    assert not list((tmp_path / "a").glob(".refilter*"))


def test_a_store_of_before_ink_was_a_share_of_the_tissue(slide: Path, tmp_path: Path) -> None:
    limits = (Limit(score="pen", reason="pen", at_most=0.1),)
    first = tile_slide(slide, tmp_path, replace(SPEC, limits=limits))
    with h5py.File(first.store, "a") as file:
        del file["candidates/ink"]
    before = Path(first.store).read_bytes()
    # Not judged by the old score: another share was meant by it.
    with pytest.raises(StoreError, match=r"holds no score 'ink'.*tile the slide again"):
        refilter(first.store, {"max_pen": 0.3})
    assert Path(first.store).read_bytes() == before
    done = refilter(first.store, {"min_tissue": 0.8})
    assert 0 < done.after < first.kept
    with open_store(first.store) as store:
        assert store.meta.params["limits"][0]["score"] == "pen"


def test_a_limit_on_another_score(slide: Path, tmp_path: Path) -> None:
    first = tile_slide(slide, tmp_path, SPEC)
    with open_store(first.store) as store:
        sharp = store.candidates.scores["sharpness"][store.candidates.reason == 0]
    limit = float(np.median(sharp))
    done = refilter(first.store, {"min_sharpness": limit}, out=tmp_path / "sharp.h5")
    assert done.after == int((sharp >= limit).sum()) and done.counts["blurred"] == done.dropped
    with open_store(first.store) as store:
        assert len(store) == first.kept  # the original is as it was
    before = (tmp_path / "sharp.h5").stat()
    again = refilter(first.store, {"min_sharpness": limit}, out=tmp_path / "sharp.h5")
    assert again.after == done.after and (tmp_path / "sharp.h5").stat().st_ino == before.st_ino  # left alone
    with pytest.raises(StoreError, match="exists already"):
        refilter(first.store, {"min_sharpness": limit / 2}, out=tmp_path / "sharp.h5")


def test_nothing_left_and_unknown_scores_change_nothing(slide: Path, tmp_path: Path) -> None:
    flat = synthetic_slide(tmp_path / "flat.svs", size=(600, 600), levels=(1,), glass=0.3)
    store = Path(tile_slide(flat, tmp_path, replace(SPEC, patch_size=250)).store)  # none is all tissue
    before = store.read_bytes()
    with pytest.raises(NoTissueError, match="relax"):
        refilter(store, {"min_tissue": 1.0})
    with pytest.raises(StoreError, match="no score 'sharpness'"):
        refilter(store, {"min_sharpness": 3.0})
    assert refilter(store, {"min_tissue": 0.9}, dry_run=True).dropped > 0
    assert store.read_bytes() == before


def test_imported_images_can_be_refiltered(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "breast_ucsb"
    for name, least in (("a", 0.3), ("b", 0.7)):
        import_images(folder, tmp_path / name, labels=folder / "labels.csv", min_tissue=least)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    command = ["refilter", str(tmp_path / "a"), "--min-tissue", "0.7"]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 1 and "would lose 18 patches for good" in run.output and "--out" in run.output
    for _ in range(2):  # a run again finds all done
        run = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "c")])
        assert run.exit_code == 0, run.output
    for path in sorted((tmp_path / "b").glob("*.h5")):
        with open_store(path) as wanted, open_store(tmp_path / "c" / path.name) as found:
            assert found.content_hash == wanted.content_hash
    images = [(tmp_path / name / "images.csv").read_bytes() for name in ("b", "c")]
    assert images[0] == images[1]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}


def test_command_line(slide: Path, tmp_path: Path) -> None:
    store = tile_slide(slide, tmp_path, SPEC).store
    run = CliRunner().invoke(main, ["refilter", store, "--min-tissue", "0.9", "--dry-run"])
    assert run.exit_code == 0 and "would keep" in run.output
    assert CliRunner().invoke(main, ["refilter", store]).exit_code == 2
    assert CliRunner().invoke(main, ["refilter", store, "--min-tissue", "0.1"]).exit_code == 1


def test_slides_csv_and_preview_follow(slide: Path, tmp_path: Path) -> None:
    mine = tmp_path / "s.svs"
    mine.write_bytes(slide.read_bytes())
    first, out = tile_slides([mine], tmp_path / "o", SPEC).slides[0], tmp_path / "o"
    direct = tile_slides([mine], tmp_path / "b", replace(SPEC, min_tissue=0.8)).slides[0]
    before = (out / "previews" / "s.jpg").read_bytes()
    done = refilter(first.store, {"min_tissue": 0.8})
    assert done.listed and done.redrawn and done.preview == str(out / "previews" / "s.jpg")
    row, wanted = (_row(folder) for folder in (out, tmp_path / "b"))
    for column in ("kept", "counts", "labels", "raw_bytes", "content_hash", "unreadable", "status", "mpp"):
        assert row[column] == wanted[column], column
    assert int(row["kept"]) == direct.kept and int(row["bytes"]) == Path(first.store).stat().st_size
    assert (out / "previews" / "s.jpg").read_bytes() == (tmp_path / "b" / "previews" / "s.jpg").read_bytes()
    assert (out / "previews" / "s.jpg").read_bytes() != before

    mine.unlink()  # without its slide patches are not dropped for good, and the picture cannot follow
    run = CliRunner().invoke(main, ["refilter", str(out), "--min-tissue", "0.9", "--dry-run"])
    assert run.exit_code == 0 and "needs --out" in run.output
    assert CliRunner().invoke(main, ["refilter", str(out), "--min-tissue", "0.9"]).exit_code == 1
    assert int(_row(out)["kept"]) == direct.kept
    run = CliRunner().invoke(main, ["refilter", str(out), "--min-tissue", "0.8"])
    assert run.exit_code == 0 and "s.jpg still shows the earlier choice" in run.output
    elsewhere = refilter(first.store, {"min_tissue": 0.95}, out=tmp_path / "c" / "s.h5", slide=slide)
    assert not elsewhere.listed and not elsewhere.preview


def test_a_changed_slide_counts_as_gone(slide: Path, tmp_path: Path) -> None:
    mine = tmp_path / "s.svs"
    mine.write_bytes(slide.read_bytes())
    store = Path(tile_slide(mine, tmp_path / "o", SPEC).store)
    synthetic_slide(mine, size=(1200, 1000), seed=8)
    before = store.read_bytes()
    with pytest.raises(StoreError, match="another file now"):
        refilter(store, {"min_tissue": 0.8})
    assert store.read_bytes() == before
    assert refilter(store, {"min_tissue": 0.8}, slide=slide).dropped > 0  # it is still elsewhere


def test_images_csv_keeps_what_it_has_of_others(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("x", "y"):
        pixels = np.full((64, 96, 3), 230, np.uint8)
        pixels[:, :40] = draw.integers(80, 160, (64, 40, 3))
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name / f"{name}.png")
    options = {"patch_size": 32, "min_tissue": 0.1}
    import_images(tmp_path / "in", tmp_path / "a", **options)  # type: ignore[arg-type]
    for name in ("x", "y"):
        store = next((tmp_path / "a").glob(f"*{name}.h5"))
        done = refilter(store, {"min_tissue": 0.9}, out=tmp_path / "b")
        assert done.listed and done.store == str(tmp_path / "b" / store.name)
    import_images(tmp_path / "in", tmp_path / "c", **(options | {"min_tissue": 0.9}))  # type: ignore[arg-type]
    tables = [(tmp_path / folder / "images.csv").read_bytes() for folder in "abc"]
    assert tables[1] == tables[2] != tables[0]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(partial, "_exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    partial.replace_path(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    left = [path.name for path in tmp_path.iterdir() if path.name != "old"]
    assert left in ([], ["new"]) and (not left or [p.name for p in (tmp_path / "new").iterdir()] == ["old"])


def _row(folder: Path) -> dict[str, str]:
    with (folder / "slides.csv").open(newline="", encoding="utf-8") as file:
        return next(iter(csv.DictReader(file)))


@pytest.mark.parametrize(
    "changes", [{"max_fold": 1e308}, {"min_tissue": -1.0}, {"min_sharpness": float("nan")}]
)
def test_limits_have_the_bounds_of_tiling(changes: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0"):
        refilter(tmp_path / "not-even-there.h5", changes)


def test_a_limit_beyond_float32_is_infinite() -> None:
    scores = np.array([0, 1e30], np.float32)
    assert rejects(Limit(score="x", reason="x", at_least=1e300), scores).tolist() == [True, True]
    assert rejects(Limit(score="x", reason="x", at_most=1e300), scores).tolist() == [False, False]
