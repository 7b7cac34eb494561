"""Exports, read back by the libraries they are meant for or by plain ones."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from torchvision.datasets import ImageFolder

from wsitool.base.interrupt import Interrupted, stoppable
from wsitool.base.lock import locked
from wsitool.base.tables import read_table
from wsitool.cli import main
from wsitool.curate.export.formats import EXPORTS
from wsitool.curate.export.run import export_stores
from wsitool.curate.importing import import_images
from wsitool.errors import StoreError, UsageError
from wsitool.slides.annotations import read_annotations
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slides


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of different classes at 1 um/px with overlapping patches."""
    folder = tmp_path_factory.mktemp("slides")
    inputs = []
    for seed, label in enumerate(("benign", "dcis")):
        path = synthetic_slide(folder / f"s.{label}.svs", kind=label, size=(900, 700), glass=0.1, seed=seed)  # type: ignore[arg-type]
        inputs.append(SlideInput(path=str(path), label=label, group=f"p{seed}"))
    tile_slides(inputs, folder / "out", TileSpec(patch_size=64, mpp=1.0, stride=48), workers=1)
    return folder / "out"


def test_imagefolder_is_read_by_torchvision(stores: Path, tmp_path: Path) -> None:
    done = export_stores(stores, tmp_path / "images", "imagefolder")
    dataset = ImageFolder(str(tmp_path / "images"))
    assert dataset.classes == ["benign", "dcis"] and len(dataset) == done.patches
    with open_store(stores / "s.dcis.h5") as store:
        x, y = store.coords[7].tolist()
        path = tmp_path / "images" / "dcis" / f"s_dcis_000007_x{x}_y{y}.jpg"
        assert path.read_bytes() == store.encoded([7])[0]


def test_a_table_of_positions_is_cut_again(stores: Path, tmp_path: Path) -> None:
    done = export_stores(stores, tmp_path / "table", "csv")
    table = read_table(tmp_path / "table" / "coords.csv", needs=("slide", "x", "y", "label"))
    assert len(table.rows) == done.patches and {row["label"] for row in table.rows} == {"benign", "dcis"}
    with open_store(stores / "s.dcis.h5") as store:
        source, own = store.meta.source, [row for row in table.rows if row["slide"] == "s.dcis"]
        assert [[int(row["x"]), int(row["y"])] for row in own] == store.coords.tolist()
        tile_slides([source], tmp_path / "again", coords=str(table.path))
        with open_store(tmp_path / "again" / "s.dcis.h5") as again:
            everything = range(len(store))
            assert again.encoded(everything) == store.encoded(everything)


def test_webdataset_shards(stores: Path, tmp_path: Path) -> None:
    done = export_stores(stores, tmp_path / "wds", "webdataset", shard_size=5)
    samples: dict[str, dict[str, bytes]] = {}
    per_shard: list[int] = []
    for name in done.files:
        with tarfile.open(tmp_path / "wds" / name) as tar:
            members = tar.getmembers()
            per_shard.append(len({member.name.split(".")[0] for member in members}))
            for member in members:
                key, _, suffix = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[suffix] = file.read()
    assert len(samples) == done.patches and len(done.files) == -(-done.patches // 5)
    assert max(per_shard) <= 5 and max(per_shard) - min(per_shard) <= 1
    with open_store(stores / "s.benign.h5") as store:
        key = next(key for key in samples if key.startswith("s_benign_000003"))
        facts = json.loads(samples[key]["json"])
        assert [facts["x"], facts["y"]] == store.coords[3].tolist() and facts["group"] == "p0"
        assert samples[key]["cls"] == b"0" and samples[key]["jpg"] == store.encoded([3])[0]
    again = export_stores(stores, tmp_path / "wds2", "webdataset", shard_size=5)
    assert [(tmp_path / "wds" / n).read_bytes() for n in done.files] == [
        (tmp_path / "wds2" / n).read_bytes() for n in again.files
    ]


def test_webdataset_has_shards_for_sixteen_readers_in_an_order_of_its_seed(
    stores: Path, tmp_path: Path
) -> None:
    orders: dict[int, list[str]] = {}
    for seed in (0, 1):
        out = tmp_path / str(seed)
        done = export_stores(stores, out, "webdataset", seed=seed)
        assert len(done.files) == 16 < done.patches
        orders[seed], mixed = [], 0
        for file in done.files:
            with tarfile.open(out / file) as tar:
                names = [name for name in tar.getnames() if name.endswith(".jpg")]
            orders[seed] += names
            mixed += len({name.partition("_0")[0] for name in names}) > 1
        assert mixed > 8  # of two classes, one per slide, that would come one after the other
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) != orders[0]
    with pytest.raises(UsageError, match="made otherwise"):
        export_stores(stores, tmp_path / "0", "webdataset", seed=1)


def test_a_split_is_exported_with_its_sides(stores: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    for side, name in (("train", "s.benign.h5"), ("test", "s.dcis.h5")):
        (split / side).mkdir(parents=True)
        (split / side / name).symlink_to(stores / name)
    (split / "split.json").write_text("{}")
    done = export_stores(split, tmp_path / "table", "csv")
    rows = read_table(tmp_path / "table" / "coords.csv", needs=("slide", "split", "path")).rows
    assert done.stores == 2
    assert {(row["slide"], row["split"]) for row in rows} == {("s.benign", "train"), ("s.dcis", "test")}


def test_lists_of_slides_are_what_clam_and_trident_read(stores: Path, tmp_path: Path) -> None:
    """By CLAM's extract_features_fp and dataset classes, and TRIDENT's --custom_list_of_wsis, with pandas."""
    export_stores(stores, tmp_path / "clam", "clam")
    names = pd.read_csv(tmp_path / "clam" / "process_list_autogen.csv")["slide_id"].tolist()
    assert names == ["s.benign.svs", "s.dcis.svs"]
    assert all((tmp_path / "clam" / "patches" / f"{n.split('.svs')[0]}.h5").is_file() for n in names)
    dataset = pd.read_csv(tmp_path / "clam" / "dataset.csv")
    assert dataset.values.tolist() == [["p0", "s.benign", "benign"], ["p1", "s.dcis", "dcis"]]
    export_stores(stores, tmp_path / "trident", "trident")
    wsis = pd.read_csv(tmp_path / "trident" / "wsis.csv")
    assert wsis.columns.tolist() == ["wsi", "mpp"] and wsis["mpp"].tolist() == [0.5, 0.5]
    assert wsis["wsi"].tolist() == names


def test_trident_is_told_of_several_folders(stores: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(stores, folder)
    with open_store(stores / "s.dcis.h5") as store:
        tile_slides([store.meta.source], tmp_path / "other", TileSpec(patch_size=128, mpp=0.5), workers=1)
    shutil.copy(tmp_path / "other" / "s.dcis.h5", folder / "fine.h5")
    run = CliRunner().invoke(main, ["export", str(folder), "--to", "trident", "--out", str(tmp_path / "t")])
    assert "so there are 2 folders" in run.output, run.output
    assert "10x_64px_16px_overlap, 20x_128px_0px_overlap" in run.output
    assert not export_stores(stores, tmp_path / "one", "trident").notes


def test_clam_and_trident_mean_different_things_by_patch_size(stores: Path, tmp_path: Path) -> None:
    export_stores(stores, tmp_path / "clam", "clam")
    export_stores(stores, tmp_path / "trident", "trident")
    with open_store(stores / "s.dcis.h5") as store:
        coords = store.coords
    with h5py.File(tmp_path / "clam" / "patches" / "s.dcis.h5") as file:
        np.testing.assert_array_equal(file["coords"][:], coords)
        attributes = dict(file["coords"].attrs)
        assert (attributes["patch_size"], attributes["patch_level"]) == (128, 0)
        assert attributes["level_dim"].tolist() == [900, 700] and attributes["name"] == "s.dcis"
    folder = tmp_path / "trident" / "10x_64px_16px_overlap" / "patches"
    with h5py.File(folder / "s.dcis_patches.h5") as file:
        np.testing.assert_array_equal(file["coords"][:], coords)
        attributes = dict(file["coords"].attrs)
        names = ("patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap")
        assert [attributes[name] for name in names] == [64, 128, 20, 10, 16]


def test_geojson_comes_back_as_annotations(stores: Path, tmp_path: Path) -> None:
    export_stores(stores / "s.benign.h5", tmp_path / "g", "geojson")
    found = read_annotations(tmp_path / "g" / "s.benign.geojson")
    with open_store(stores / "s.benign.h5") as store:
        patches = [region for region in found.regions if region.names == ("benign",)]
        assert len(patches) == len(store)
        x, y = store.coords[5].tolist()
        assert patches[5].area.bounds == (x, y, x + 128, y + 128)
        rejected = sum(number for reason, number in store.counts.items() if reason != "kept")
        assert sum("wsitool" in region.names and region.tile for region in found.regions) == rejected
    features = json.loads((tmp_path / "g" / "s.benign.geojson").read_text())["features"]
    measured = {entry["name"] for entry in features[-1]["properties"]["measurements"]}
    assert {"tissue", "pen", "sharpness"} <= measured


def test_raw_imports_become_png_and_have_no_place_on_a_slide(real_data: Path, tmp_path: Path) -> None:
    import_images(real_data / "kidney_omniseg", tmp_path / "k", codec="raw")
    done = export_stores(tmp_path / "k", tmp_path / "images", "imagefolder")
    assert all(name.startswith("unlabelled/") and name.endswith(".png") for name in done.files)
    first = sorted((tmp_path / "k").glob("*.h5"))[0]
    with open_store(first) as store:
        name = next(name for name in done.files if first.stem in name)
        pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "images" / name).read_bytes())))
        np.testing.assert_array_equal(pixels, store.read([0])[0])
    for target in ("clam", "trident", "hs2p", "csv", "geojson"):
        with pytest.raises(StoreError, match="imported images"):
            export_stores(tmp_path / "k", tmp_path / target, target)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "k"]


def test_wrong_usage_writes_nothing(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="not empty"):
        export_stores(stores, tmp_path / "full", "clam")
    with pytest.raises(StoreError, match="no patch store"):
        export_stores(tmp_path / "full", tmp_path / "out", "clam")
    with pytest.raises(UsageError, match="no export format 'zip': choose one of clam, trident, hs2p, csv"):
        export_stores(stores, tmp_path / "out", "zip")
    assert not (tmp_path / "out").exists()


def test_command_line(stores: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["export", str(stores), "--to", "trident", "--out", str(tmp_path / "t")])
    assert run.exit_code == 0 and "2 stores in 3 files" in run.output, run.output


TARGETS = tuple(EXPORTS)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("to", TARGETS)
def test_an_export_goes_on_where_it_was_ended(stores: Path, tmp_path: Path, to: str) -> None:
    """A file lost, one half written, the record torn: the re-run ends like an undisturbed run."""
    out = tmp_path / "out"
    whole = export_stores(stores, out, to, shard_size=50)
    expected = _tree(out)
    inodes = {name: (out / name).stat().st_ino for name in whole.files}
    record = (out / "export.jsonl").read_text().splitlines(keepends=True)
    (out / whole.files[-1]).unlink()
    (out / "export.jsonl").write_text("".join(record[:-1]) + record[-1][:20])
    (out / whole.files[0]).with_name(".x.0123abcd.partial").write_bytes(b"half")
    again = export_stores(stores, out, to, shard_size=50)
    # The part of the file, and that of the line, where these are two.
    assert len(record) - 2 <= again.skipped < len(record) and again.files == whole.files
    assert again.patches == whole.patches and _tree(out) == expected
    kept = [name for name in whole.files if (out / name).stat().st_ino == inodes[name]]
    assert len(kept) >= (len(whole.files) - 1) // len(record)
    assert export_stores(stores, out, to, shard_size=50).skipped == len(record)
    assert _tree(out) == expected


@pytest.mark.parametrize("to", TARGETS)
def test_a_signal_leaves_no_half_of_a_file(
    stores: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reads = tmp_path / "out", []
    coords = Reader.coords.fget
    assert coords is not None

    def stopping(store: Reader) -> object:
        reads.append(store)
        if len(reads) == 2:
            signal.raise_signal(signal.SIGTERM)
        return coords(store)

    monkeypatch.setattr(Reader, "coords", property(stopping))
    with pytest.raises(Interrupted) as stop, stoppable():
        export_stores(stores, out, to, shard_size=60)
    assert re.fullmatch(
        r"\d+ of \d+ (stores|shards|tables) exported; run again to go on", stop.value.progress
    )
    # But for the list that `wsitool status` reads.
    assert {path.name for path in out.rglob(".*") if path.is_file()} <= {".export.planned.json"}
    monkeypatch.undo()
    export_stores(stores, out, to, shard_size=60)
    export_stores(stores, tmp_path / "whole", to, shard_size=60)
    assert _tree(out) == _tree(tmp_path / "whole")


def test_another_export_is_only_replaced_when_asked(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_stores(stores, out, "webdataset", shard_size=5)
    (out / "notes.txt").write_text("mine")
    before = _tree(out)
    for to, size in (("webdataset", 4), ("clam", 5)):
        with pytest.raises(UsageError, match=r"made otherwise .* pass --overwrite"):
            export_stores(stores, out, to, shard_size=size)
    assert _tree(out) == before
    export_stores(stores, out, "clam", overwrite=True)
    tables = ["dataset.csv", "export.jsonl", "notes.txt"]
    patches = ["patches/s.benign.h5", "patches/s.dcis.h5", "process_list_autogen.csv"]
    assert sorted(_tree(out)) == tables + patches


def test_a_record_names_nothing_outside_to_be_removed(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").touch()
    line = {"part": "x", "fingerprint": "0", "done": True, "top": ["../precious", "..", "."]}
    (out / "export.jsonl").write_text(json.dumps(line) + "\n")
    export_stores(stores, out, "clam", overwrite=True)
    assert (tmp_path / "precious").is_file()


def test_new_stores_are_added(stores: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(stores / "s.benign.h5", folder)
    export_stores(folder, tmp_path / "out", "clam")
    shutil.copy(stores / "s.dcis.h5", folder)
    assert export_stores(folder, tmp_path / "out", "clam").skipped == 1
    assert sorted(path.name for path in (tmp_path / "out" / "patches").iterdir()) == [
        "s.benign.h5",
        "s.dcis.h5",
    ]


@pytest.mark.parametrize("to", TARGETS)
def test_one_store_that_fails_costs_no_other(stores: Path, tmp_path: Path, to: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(stores, folder)
    (folder / "broken.h5").write_bytes(b"no store")
    run = CliRunner().invoke(main, ["export", str(folder), "--to", to, "--out", str(out)])
    assert run.exit_code == 1 and "2 stores" in run.output and "Error: broken.h5" in run.stderr, run.output
    (folder / "broken.h5").unlink()
    export_stores(folder, tmp_path / "whole", to)
    assert _tree(out) == _tree(tmp_path / "whole")


@pytest.mark.parametrize("to", ["imagefolder", "webdataset"])
def test_damaged_patches_are_left_out_and_told(stores: Path, tmp_path: Path, to: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(stores / "s.benign.h5", folder)
    with h5py.File(folder / "s.benign.h5", "r+") as file:
        offsets = file["encoded/offsets"][:]
        file["encoded/blob"][int(offsets[3]) : int(offsets[4])] = 0
    done = export_stores(folder, tmp_path / "out", to)
    (name, reason), *_ = done.failed
    assert "1 patches of s.benign.h5 cannot be read and are left out" in reason and name
    with open_store(folder / "s.benign.h5") as store:
        assert done.patches == len(store) - 1
    if to == "imagefolder":
        assert len(list((tmp_path / "out").rglob("*.jpg"))) == len(done.files) == done.patches
    tried_again = export_stores(folder, tmp_path / "out", to)
    assert tried_again.skipped == (0 if to == "imagefolder" else 15) and tried_again.failed == done.failed


def test_two_exports_into_one_folder_are_kept_apart(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out" / "export.jsonl", what="x"),
        pytest.raises(StoreError, match=r"The export .* is being written by process"),
    ):
        export_stores(stores, tmp_path / "out", "clam")
