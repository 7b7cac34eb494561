"""Importing images: every stored patch is the image's, every image is accounted for."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from drawn_images import draw_image
from PIL import Image, features

from wsitool.cli import main
from wsitool.curate.importing import choose_patch_size, import_images
from wsitool.errors import UsageError
from wsitool.store.collection import open_collection
from wsitool.store.opening import open_store


def _pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


def test_ucsb_gives_the_reference_number_of_patches(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "breast_ucsb"
    result = import_images(folder, tmp_path / "b", labels=folder / "labels.csv")
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
        draw_image(tmp_path / "in" / name, 200, 130, kind=kind)
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
    square, other = draw_image(tmp_path / "a.png", 100, 100), draw_image(tmp_path / "b.png", 120, 100)
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert choose_patch_size([square, tmp_path / "bad.png"]) == 100
    assert choose_patch_size([square, other]) == 224
    assert choose_patch_size([other]) == 224
    assert choose_patch_size([draw_image(tmp_path / "c.png", 600, 600)]) == 224


def test_a_damaged_header_is_of_no_size(tmp_path: Path) -> None:
    """Whatever Pillow's plugin raises: that of AVIF a RuntimeError."""
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.avif")
    data = (tmp_path / "a.avif").read_bytes()
    for place in range(4, min(len(data), 300)):
        (tmp_path / "b.avif").write_bytes(data[:place] + bytes([data[place] ^ 0xA5]) + data[place + 1 :])
        assert choose_patch_size([tmp_path / "b.avif"]) > 0


def test_bad_images_stop_nobody_and_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw_image(folder / "good.png", 128, 128)
    draw_image(folder / "small.png", 40, 128)
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
    assert sorted(path.name for path in out.iterdir()) == ["good.h5", "images.csv", "report.html"]


def test_existing_stores_are_kept_unless_overwritten(tmp_path: Path) -> None:
    draw_image(tmp_path / "in" / "a.png", 64, 64)
    import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)
    store, table = tmp_path / "out" / "a.h5", tmp_path / "out" / "images.csv"
    before, listed = store.read_bytes(), table.read_bytes()
    refused = import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0, codec="raw")
    assert "codec 'jpeg' instead of 'raw', quality 90 instead of None: pass --over" in refused.images[0].error
    assert store.read_bytes() == before and table.read_bytes() == listed
    import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0, overwrite=True, codec="raw")
    with open_store(store) as opened:
        assert opened.meta.codec == "raw"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-tissue", "30"], "--min-tissue"),
        (["--patch-size", "0"], "--patch-size"),
        (["--stride", "-1"], "--stride"),
        (["--mpp", "0"], "--mpp"),
        (["--mpp", "nan"], "--mpp"),
        (["--mpp", "inf"], "--mpp"),
        (["--min-tissue", "nan"], "--min-tissue"),
        (["--min-tissue", "-0.1"], "--min-tissue"),
    ],
)
def test_impossible_options_write_nothing(tmp_path: Path, options: list[str], message: str) -> None:
    draw_image(tmp_path / "in" / "a.png", 64, 64)
    out = tmp_path / "out"
    run = CliRunner().invoke(main, ["import", str(tmp_path / "in"), "--out", str(out), *options])
    assert run.exit_code == 2 and message in run.output
    assert not out.exists()


def test_a_label_table_with_unknown_files_writes_nothing(tmp_path: Path) -> None:
    draw_image(tmp_path / "in" / "a.png", 64, 64)
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


def test_groups_that_would_share_a_file_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a b.png", "a_b.png", "A_B.png"):
        draw_image(tmp_path / "in" / name, 64, 64)
    result = import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)
    groups = {}
    for path in result.stores:
        with open_store(path) as store:
            groups[store.meta.group] = path.stem
    assert groups["A_B"] == "A_B" and len({name.lower() for name in groups.values()}) == 3
    assert all(name.lower().startswith("a_b") for name in groups.values())


def test_json_result(tmp_path: Path) -> None:
    draw_image(tmp_path / "in" / "a.png", 64, 64)
    args = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json", "--min-tissue", "0"]
    found = json.loads(CliRunner().invoke(main, args).stdout)
    assert found["patch_size"] == 64 and found["images"][0]["kept"] == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_images_never_stop_the_import(tmp_path: Path, suffix: str) -> None:
    """Flipped bytes and truncations: each image ends as patches or as one sentence, the good one is there."""
    rng = np.random.default_rng(5)
    good = draw_image(tmp_path / f"a.{suffix}", 96, 96).read_bytes()
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
        draw_image(tmp_path / "in" / f"p{number}.png", 32, 32, seed=number)
    group = "p{}" if source == "column" else ""
    rows = [f"p{number}.png,a,{group.format(number)}\n" for number in range(2)]
    (tmp_path / "labels.csv").write_text("file,label,group\n" + "".join(rows))
    words = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--min-tissue", "0"]
    words += ["--labels", str(tmp_path / "labels.csv")] if "column" in source else []
    words += ["--group-regex", "^(..)"] if source == "regex" else []
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert ("every image is a group of its own" in result.output) == (source in ("none", "empty column"))


def test_a_linked_folder_of_images_is_searched(tmp_path: Path) -> None:
    draw_image(tmp_path / "data" / "a" / "one.png", 64, 64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "images").symlink_to("../data", target_is_directory=True)
    done = import_images(tmp_path / "in", tmp_path / "out", patch_size=64, min_tissue=0)
    assert done.patches == 1


def test_positions_in_the_place_of_images_are_known(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slide.h5").touch()
    with pytest.raises(UsageError, match="tile SLIDES --coords"):
        import_images(tmp_path / "in", tmp_path / "out")


def test_what_is_no_file_is_told_by_name_and_never_opened(tmp_path: Path) -> None:
    """A pipe would never answer; broken and circular links and folders of an image's name are no images."""
    source = tmp_path / "in"
    draw_image(source / "good.png", 64, 64)
    os.mkfifo(source / "pipe.png")
    (source / "gone.png").symlink_to("nowhere.png")
    (source / "self.png").symlink_to("self.png")
    (source / "round").symlink_to(".", target_is_directory=True)
    (source / "folder.png").mkdir()
    (source / "empty.png").touch()
    args = ["import", str(source), "--out", str(tmp_path / "out"), "--min-tissue", "0", "--patch-size", "64"]
    run = CliRunner().invoke(main, args)
    assert run.exit_code == 1, run.output
    rows = {
        row["file"]: row for row in csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines())
    }
    assert sorted(rows) == ["empty.png", "gone.png", "good.png", "pipe.png", "self.png"]
    assert rows["good.png"]["kept"] == "1" and rows["empty.png"]["error"]
    assert all(
        "no file that can be read" in rows[f"{name}.png"]["error"] for name in ("gone", "pipe", "self")
    )


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/good.png", "b/hidden.png"):
        draw_image(tmp_path / "in" / name, 64, 64)
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)
    assert [image.file for image in found.failed] == ["b"]
    assert "'b' cannot be listed: Permission denied" in found.failed[0].error
    assert len(found.stores) == 1


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_file_names_that_are_no_utf8_are_imported(tmp_path: Path, locale: str) -> None:
    (tmp_path / "in").mkdir()
    image = draw_image(tmp_path / "a.png", 64, 64)
    for name in ("검체.png".encode("cp949"), "검체.png".encode()):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(image.read_bytes())
    args = [sys.executable, "-c", "from wsitool.cli import main; main()", "import", str(tmp_path / "in")]
    args += ["--out", str(tmp_path / "out"), "--min-tissue", "0"]
    run = subprocess.run(args, env=os.environ | {"LC_ALL": locale}, capture_output=True, check=False)
    assert run.returncode == 0 and b"Traceback" not in run.stderr, run.stderr
    groups = []
    for path in (tmp_path / "out").glob("*.h5"):
        with open_store(path) as store:
            groups.append(store.meta.group)
    assert sorted(groups) == ["\\xb0\\xcb\u00fc", "검체"]
    assert len({path.stem.lower() for path in (tmp_path / "out").glob("*.h5")}) == 2


def test_a_bad_row_costs_one_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_image(tmp_path / "images" / f"{name}.png", 128, 128)
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
