"""`wsitool info` tells slides, stores, collections, runs and weights apart, and says so to machines too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from safetensors.numpy import save_file

from wsitool.base.lock import locked
from wsitool.cli import main
from wsitool.curate.describe import describe
from wsitool.curate.export.run import export_stores
from wsitool.curate.splitting import split_stores
from wsitool.errors import EncoderError, NotAStoreError, UsageError
from wsitool.slides.spec import TileSpec
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("describe")
    synthetic_slide(folder / "s.svs", size=(600, 500), glass=0.1)
    tile_slide(folder / "s.svs", folder / "stores", TileSpec(level=0, patch_size=128))
    return folder


def test_slide(folder: Path) -> None:
    found = describe(folder / "s.svs")
    assert found.kind == "slide"
    assert found.facts["size"] == [600, 500]
    assert found.facts["mpp"] == 0.5
    assert found.facts["reader"] == "tiff"


def test_store_and_collection_agree(folder: Path) -> None:
    store, collection = describe(folder / "stores" / "s.h5"), describe(folder / "stores")
    assert (store.kind, collection.kind) == ("store", "collection")
    assert store.facts["patches"] == collection.facts["patches"] > 4
    assert store.facts["patch_size"] == collection.facts["patch size"] == 128


def test_files_of_other_programs(folder: Path, tmp_path: Path) -> None:
    export_stores([folder / "stores" / "s.h5"], tmp_path, to="clam")
    found = describe(next(tmp_path.rglob("*.h5")))
    assert "positions of patches as CLAM writes them" in found.kind and "--coords" in found.kind
    assert found.facts["coords"] == [describe(folder / "stores" / "s.h5").facts["patches"], 2]
    assert (found.facts["coords.patch_size"], found.facts["coords.patch_level"]) == (128, 0)


def test_folders_of_other_programs(folder: Path, tmp_path: Path) -> None:
    patches = describe(folder / "stores" / "s.h5").facts["patches"]
    export_stores([folder / "stores" / "s.h5"], tmp_path / "hs2p", to="hs2p")
    for path in (tmp_path / "hs2p", tmp_path / "hs2p" / "tiles" / "s.coordinates.npz"):
        found = describe(path)
        assert "as hs2p writes them" in found.kind and "--coords" in found.kind
        assert (found.facts["positions"], found.facts["patch size"]) == (patches, 128)
    export_stores([folder / "stores" / "s.h5"], tmp_path / "clam", to="clam")
    assert "positions of patches as CLAM writes them" in describe(tmp_path / "clam").kind
    for name in ("trident/features_uni_v1", "clam-features/h5_files"):
        (tmp_path / name).mkdir(parents=True)
        for slide in ("a", "b"):
            with h5py.File(tmp_path / name / f"{slide}.h5", "w") as file:
                file["features"], file["coords"] = np.zeros((3, 8)), np.zeros((3, 2), int)
    for name in ("trident/features_uni_v1", "clam-features"):
        found = describe(tmp_path / name)
        assert found.kind == "features of patches, as CLAM and TRIDENT write", name
        assert (found.facts["files"], found.facts["features"]) == (2, [3, 8])
    # Among stores of ours it is the stranger that is told.
    (tmp_path / "mixed").mkdir()
    shutil.copy(folder / "stores" / "s.h5", tmp_path / "mixed" / "z.h5")
    shutil.copy(tmp_path / "trident" / "features_uni_v1" / "a.h5", tmp_path / "mixed")
    with pytest.raises(NotAStoreError, match=r"a\.h5 is not a wsitool patch store"):
        describe(tmp_path / "mixed")


def test_a_split(tmp_path: Path) -> None:
    for number in range(4):
        labelled_store(tmp_path / "all" / f"s{number}.h5", seed=number)
    split_stores(tmp_path / "all", tmp_path / "out", test=0.5)
    found = describe(tmp_path / "out")
    assert found.kind == "split" and found.facts["train"]["patches"] == found.facts["test"]["patches"] == 48


def test_run_and_weights(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"method": "simclr"}')
    assert describe(tmp_path).facts == {"method": "simclr"}
    save_file(
        {"w": np.zeros(3, np.float32)}, tmp_path / "e.safetensors", {"card": '{"mpp": 0.5}', "by": "hand"}
    )
    found = describe(tmp_path / "e.safetensors")
    assert found.kind == "weights"
    assert found.facts == {"tensors": 1, "card": {"mpp": 0.5}, "by": "hand"}


def test_a_run_that_was_killed_is_not_said_to_be_running(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"status": "running"}')
    with locked(tmp_path / "run", what="run"):
        assert describe(tmp_path / "run").facts == {"status": "running"}
    found = describe(tmp_path / "run").facts
    assert found["status"] == "interrupted" and "again with --resume auto" in found["to go on"]


def test_nothing_there_an_empty_folder_and_truncated_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="check the spelling"):
        describe(tmp_path / "nothing")
    with pytest.raises(UsageError, match="without patch stores"):
        describe(tmp_path)
    (tmp_path / "e.safetensors").write_bytes(b"\x10")
    with pytest.raises(EncoderError, match="truncated"):
        describe(tmp_path / "e.safetensors")


def test_command_prints_text_and_json(folder: Path) -> None:
    shown = CliRunner().invoke(main, ["info", str(folder / "stores" / "s.h5")])
    assert shown.exit_code == 0
    assert "patch size                 128" in shown.output
    as_json = CliRunner().invoke(main, ["info", str(folder / "s.svs"), "--json"])
    assert json.loads(as_json.output)["facts"]["levels"] == [[600, 500, 1.0], [150, 125, 4.0]]


def test_lineage_is_numbered(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"lineage": [{"name": "kidney"}, {"name": "breast"}]}))
    shown = CliRunner().invoke(main, ["info", str(tmp_path)])
    assert "lineage.2.name             breast" in shown.output


def test_a_run_is_told_in_short_and_whole_as_json(tmp_path: Path) -> None:
    facts = {"groups": [f"p{number}" for number in range(9)], "card": {"backbone": "resnet18"}}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    shown = CliRunner().invoke(main, ["info", str(tmp_path)]).output
    assert "groups                     9: p0, p1, p2, p3, p4, p5, ..." in shown
    assert "resnet18" not in shown
    assert json.loads(CliRunner().invoke(main, ["info", str(tmp_path), "--json"]).output)["facts"] == facts
