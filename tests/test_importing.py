"""Importing images: every stored patch is the image's, every image is accounted for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.importing import choose_patch_size, import_images
from wsitool.store import open_collection, open_store
from wsitool.testing import draw_tissue


def _draw(path: Path, width: int, height: int, seed: int = 0, kind: str = "benign") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_tissue(width, height, kind=kind, mpp=0.5, seed=seed, glass=0.0)  # type: ignore[arg-type]
    Image.fromarray(pixels).save(path)
    return path


def _pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


def test_ucsb_gives_the_reference_number_of_patches(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "breast_ucsb"
    result = import_images(folder, tmp_path / "b", labels_csv=folder / "labels.csv")
    assert (result.patches, result.patch_size, result.classes) == (603, 224, ("benign", "malignant"))
    assert len(result.stores) == 10 and not result.failed
    collection = open_collection(tmp_path / "b")
    for path in result.stores:
        with open_store(path) as store:
            assert store.meta.classes == ("benign", "malignant")
            assert store.labels is not None and store.sources is not None
            names = np.array(store.meta.classes)[store.labels]
            assert all(label in source for label, source in zip(names, store.sources, strict=True))
    assert len(collection) == 603
    assert sorted(set(collection.groups))[0] == "ytma10_010704"


def test_raw_patches_are_the_images_pixels(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "kidney_monuseg"
    result = import_images(folder, tmp_path, codec="raw", stride=200, group_regex="^(.{12})")
    assert len(result.stores) == 9 and result.ignored == 6 and result.classes == ()
    for path in result.stores[:3]:
        with open_store(path) as store:
            assert store.labels is None and store.sources is not None
            image = _pixels(folder / store.sources[0])
            for patch, (x, y) in zip(store.read(range(len(store))), store.coords, strict=True):
                np.testing.assert_array_equal(patch, image[y : y + 224, x : x + 224])


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_several_images_of_a_group_in_one_store(tmp_path: Path, format: str) -> None:
    for name, kind in (("benign/p1-a.png", "benign"), ("dcis/p1-b.png", "dcis")):
        _draw(tmp_path / "in" / name, 200, 130, kind=kind)
    result = import_images(
        tmp_path / "in",
        tmp_path / "out",
        patch_size=64,
        codec="raw",
        min_tissue=0.0,
        mpp=0.5,
        group_regex=r"p\d",
        format=format,  # type: ignore[arg-type]
    )
    assert [path.stem for path in result.stores] == ["p1"]
    with open_store(result.stores[0]) as store:
        assert len(store) == 2 * 3 * 2 and store.meta.mpp_effective == 0.5
        assert store.labels is not None and store.sources is not None
        assert store.labels.tolist() == [0] * 6 + [1] * 6
        last = _pixels(tmp_path / "in" / str(store.sources[11]))
        np.testing.assert_array_equal(store.read([11])[0], last[64:128, 128:192])
        assert store.candidates.scores["image"].tolist() == [0.0] * 6 + [1.0] * 6


def test_images_of_one_square_size_are_one_patch_each(real_data: Path, tmp_path: Path) -> None:
    result = import_images(real_data / "kidney_omniseg", tmp_path)
    assert result.patch_size == 256 and result.patches == len(result.images)


def test_patch_size_is_224_unless_all_are_alike(tmp_path: Path) -> None:
    square, other = _draw(tmp_path / "a.png", 100, 100), _draw(tmp_path / "b.png", 120, 100)
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert choose_patch_size([square, tmp_path / "bad.png"]) == 100
    assert choose_patch_size([square, other]) == 224
    assert choose_patch_size([other]) == 224
    assert choose_patch_size([_draw(tmp_path / "c.png", 600, 600)]) == 224


def test_bad_images_stop_nobody_and_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _draw(folder / "good.png", 128, 128)
    _draw(folder / "small.png", 40, 128)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    Image.fromarray(np.full((128, 128, 3), 250, np.uint8)).save(folder / "blank.png")
    (folder / "notes.xml").touch()
    out = tmp_path / "out"
    run = CliRunner().invoke(main, ["import", str(folder), "--out", str(out), "--patch-size", "64"])
    assert run.exit_code == 1, run.output
    assert "4 patches of 64 px from 1 of 4 images" in run.output
    assert "1 files that are no images ignored" in run.output
    rows = {row["file"]: row for row in csv.DictReader((out / "images.csv").read_text().splitlines())}
    assert "smaller than the patch size of 64" in rows["small.png"]["error"]
    assert "lower --min-tissue" in rows["blank.png"]["error"]
    assert "broken.png" in rows["broken.png"]["error"]
    assert rows["good.png"]["kept"] == "4" and rows["good.png"]["error"] == ""
    assert sorted(path.name for path in out.iterdir()) == ["good.h5", "images.csv"]


def test_existing_stores_are_kept_unless_overwritten(tmp_path: Path) -> None:
    _draw(tmp_path / "in" / "a.png", 64, 64)
    import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)
    before = (tmp_path / "out" / "a.h5").read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)
    assert (tmp_path / "out" / "a.h5").read_bytes() == before
    import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0, overwrite=True, codec="raw")
    with open_store(tmp_path / "out" / "a.h5") as store:
        assert store.meta.codec == "raw"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-tissue", "30"], "--min-tissue"),
        (["--patch-size", "0"], "--patch-size"),
        (["--stride", "-1"], "--stride"),
        (["--mpp", "0"], "--mpp"),
    ],
)
def test_impossible_options_write_nothing(tmp_path: Path, options: list[str], message: str) -> None:
    _draw(tmp_path / "in" / "a.png", 64, 64)
    out = tmp_path / "out"
    run = CliRunner().invoke(main, ["import", str(tmp_path / "in"), "--out", str(out), *options])
    assert run.exit_code == 2 and message in run.output
    assert not out.exists()


def test_a_label_table_with_unknown_files_writes_nothing(tmp_path: Path) -> None:
    _draw(tmp_path / "in" / "a.png", 64, 64)
    (tmp_path / "l.csv").write_text("file,label\nzz.png,x\n")
    args = [
        "import",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--labels",
        str(tmp_path / "l.csv"),
    ]
    run = CliRunner().invoke(main, args)
    assert run.exit_code == 1 and "zz.png" in run.output and not (tmp_path / "out").exists()


def test_groups_that_would_share_a_file_name_are_refused(tmp_path: Path) -> None:
    for name in ("a b.png", "a_b.png"):
        _draw(tmp_path / "in" / name, 64, 64)
    with pytest.raises(UsageError, match="both be stored as 'a_b'"):
        import_images(tmp_path / "in", tmp_path / "out")


def test_json_result(tmp_path: Path) -> None:
    _draw(tmp_path / "in" / "a.png", 64, 64)
    args = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json", "--min-tissue", "0"]
    found = json.loads(CliRunner().invoke(main, args).stdout)
    assert found["patch_size"] == 64 and found["images"][0]["kept"] == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_images_never_stop_the_import(tmp_path: Path, suffix: str) -> None:
    """Flipped bytes and truncations: each image ends as patches or as one sentence, the good one is there."""
    rng = np.random.default_rng(5)
    good = _draw(tmp_path / f"a.{suffix}", 96, 96).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"good.{suffix}").write_bytes(good)
    for case in range(60):
        data = bytearray(good[: len(good) * (case + 1) // 21] if case < 20 else good)
        for at in rng.integers(0, len(data), 4 if case >= 20 else 0):
            data[at] ^= 1 << int(rng.integers(8))
        (folder / f"bad{case:03d}.{suffix}").write_bytes(data)
    result = import_images(folder, tmp_path / "out", patch_size=32, min_tissue=0.0)
    by_name = {image.file: image for image in result.images}
    assert by_name[f"good.{suffix}"].kept == 9
    for image in result.images:
        assert (image.kept > 0) != bool(image.error) and "\n" not in image.error, image
    assert sum(bool(image.error) for image in result.images) >= 15
    assert len(list((tmp_path / "out").iterdir())) == len(result.stores) + 1


@pytest.mark.parametrize("source", ["none", "regex", "column", "empty column"])
def test_lack_of_groups_is_told_only_where_none_were_given(tmp_path: Path, source: str) -> None:
    for number in range(2):
        _draw(tmp_path / "in" / f"p{number}.png", 32, 32, seed=number)
    group = "p{}" if source == "column" else ""
    rows = [f"p{number}.png,a,{group.format(number)}\n" for number in range(2)]
    (tmp_path / "labels.csv").write_text("file,label,group\n" + "".join(rows))
    words = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--min-tissue", "0"]
    words += ["--labels", str(tmp_path / "labels.csv")] if "column" in source else []
    words += ["--group-regex", "^(..)"] if source == "regex" else []
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert ("every image is a group of its own" in result.output) == (source in ("none", "empty column"))


def test_a_bad_row_costs_one_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _draw(tmp_path / "images" / f"{name}.png", 128, 128)
    table = tmp_path / "images" / "labels.csv"
    table.write_text("file,label\na.png,x\nb.png,y,z\nnone.png,x\n")
    base = ["import", str(tmp_path / "images")]
    run = CliRunner().invoke(main, [*base, "--labels", str(table), "--out", str(tmp_path / "o")])
    assert run.exit_code == 1
    assert f"Error: Line 3 of '{table}': it has 3 cells and the header 2" in run.output
    assert f"Error: Line 4 of '{table}': none.png, not found" in run.output
    with (tmp_path / "o" / "images.csv").open() as file:
        stores = {row["file"]: row["store"] for row in csv.DictReader(file)}
    assert stores == {"a.png": "a.h5", "b.png": "", "none.png": ""}
    run = CliRunner().invoke(main, [*base, "--out", str(tmp_path / "p")])
    assert run.exit_code == 0 and "labels.csv' is there and not read: pass --labels" in run.output
