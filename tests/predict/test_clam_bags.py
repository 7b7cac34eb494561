"""`embed --layout clam`, read back by the rules of CLAM's dataset classes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from patch_stores import small_store

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.feature_files import FeatureFiles
from wsitool.cli import main
from wsitool.errors import LabelError, UsageError
from wsitool.predict import clam_bags
from wsitool.predict.embedding import embed
from wsitool.store.collection import open_collection


class ClamDataset:
    """A bag by number: the table by pandas; features of `pt_files`, or with coordinates of `h5_files`."""

    def __init__(self, folder: Path, labels: dict[str, int]) -> None:
        self.folder = folder
        self.slides = pd.read_csv(folder / "dataset.csv", dtype=str)
        self.labels = [labels[name] for name in self.slides["label"].fillna("")]

    def bag(self, index: int) -> tuple[torch.Tensor, int]:
        path = self.folder / "pt_files" / f"{self.slides['slide_id'][index]}.pt"
        return torch.load(path, weights_only=True), self.labels[index]

    def with_coords(self, index: int) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:  # type: ignore[type-arg]
        with h5py.File(self.folder / "h5_files" / f"{self.slides['slide_id'][index]}.h5") as file:
            return file["features"][:], file["coords"][:], dict(file["coords"].attrs)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    built = build_backbone("resnet18", init="random")
    save_encoder(built, path, built.card)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, one of them of two classes, and an import of two images of one name in two folders."""
    folder = tmp_path_factory.mktemp("stores")
    small_store(folder / "slide.1.h5", ("b", None, "b"), classes=("a", "b"), group="p1")
    small_store(folder / "two.h5", ("a", "b"), classes=("a", "b"), group="p1")
    small_store(folder / "import.h5", ("a", "b", "a", "b"), sources=("a/x.png", "b/x.png"), group="p2")
    return folder


def test_clam_reads_a_bag_for_each_slide_and_image(encoder: Path, stores: Path, tmp_path: Path) -> None:
    flat = embed(stores, encoder=encoder, out=tmp_path / "flat", image_size=32)
    done = embed(stores, encoder=encoder, out=tmp_path / "clam", image_size=32, layout="clam")
    dataset = ClamDataset(tmp_path / "clam", {"a": 0, "b": 1, "": -1})
    assert dataset.slides.columns.tolist() == ["case_id", "slide_id", "label"]
    assert dataset.slides.values.tolist()[0][1:] == ["a_x", "a"]
    listed = dict(zip(dataset.slides["slide_id"], dataset.labels, strict=True))
    assert listed == {"a_x": 0, "b_x": 1, "slide.1": 1, "two": -1}
    assert dataset.slides["case_id"].tolist() == ["p2", "p2", "p1", "p1"]
    assert len(done.files) == 4 and "4 bags" in repr(done) and done.rows
    expected = {path.stem: path for path in flat.files}
    for index, name in enumerate(dataset.slides["slide_id"]):
        features, coords, attributes = dataset.with_coords(index)
        tensor, _ = dataset.bag(index)
        assert tensor.dtype == torch.float32 and np.array_equal(tensor.numpy(), features)
        with h5py.File(expected["import" if name.endswith("_x") else name]) as file:
            own = slice(None) if name in expected else slice(int(name == "b_x"), None, 2)
            assert np.array_equal(features, file["features"][own])
            assert np.array_equal(coords, file["coords"][own])
        assert (attributes["patch_level"], attributes["patch_size"]) == (0, 16)
        assert ("level_dim" in attributes) and attributes["name"] == name


def test_labels_and_patients_of_a_table(encoder: Path, stores: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label,group\ntwo,malignant,007\na/x.png,benign,\nb/x.png,malignant,\n")
    embed(stores, encoder=encoder, out=tmp_path / "o", image_size=32, layout="clam", labels=str(table))
    rows = pd.read_csv(tmp_path / "o" / "dataset.csv", dtype=str).fillna("").values.tolist()
    assert rows == [
        ["p2", "a_x", "benign"],
        ["p2", "b_x", "malignant"],
        ["p1", "slide.1", ""],
        ["007", "two", "malignant"],
    ]
    table.write_text("file,label\nthree,malignant\n")
    with pytest.raises(LabelError, match="three"):
        embed(stores, encoder=encoder, out=tmp_path / "p", layout="clam", labels=str(table))
    with pytest.raises(UsageError, match="--layout clam"):
        embed(stores, encoder=encoder, out=tmp_path / "p", labels=str(table))
    assert not (tmp_path / "p").exists()


def test_what_was_stopped_goes_on(
    encoder: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the bags of a store, or of a bag: the next run ends as an undisturbed one."""
    embed(stores, encoder=encoder, out=tmp_path / "whole", image_size=32, layout="clam")
    written: list[Path] = []
    replace = clam_bags.replace_file_in_parts

    def ending(path: Path, parts: object) -> None:
        if len(written) == 3:
            raise OSError("the disk failed")
        written.append(path)
        replace(path, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(clam_bags, "replace_file_in_parts", ending)
    out = tmp_path / "out"
    failed = embed(stores, encoder=encoder, out=out, image_size=32, layout="clam")
    assert failed.failed and len(list(out.rglob("*.h5"))) == 1
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    embed(stores, encoder=encoder, out=out, image_size=32, layout="clam")
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.suffix in (".pt", ".csv"):
            assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    embed(stores, encoder=encoder, out=out, image_size=32, layout="clam")
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} and len(kept) == 1
    with pytest.raises(UsageError, match="was not made of these patches"):
        embed(stores, encoder=encoder, out=out, image_size=48, layout="clam")


def test_a_second_run_adds_to_the_table_and_others_know_the_folder(
    encoder: Path, stores: Path, tmp_path: Path
) -> None:
    embed(stores / "two.h5", encoder=encoder, out=tmp_path / "o", image_size=32, layout="clam")
    arguments = ["embed", str(stores / "slide.1.h5"), "--encoder", str(encoder), "--out", str(tmp_path / "o")]
    run = CliRunner().invoke(main, [*arguments, "--image-size", "32", "--layout", "clam"])
    assert run.exit_code == 0 and "1 bags" in run.output, run.output
    listed = pd.read_csv(tmp_path / "o" / "dataset.csv", dtype=str)
    assert listed["slide_id"].tolist() == ["slide.1", "two"]
    told = json.loads(CliRunner().invoke(main, ["info", str(tmp_path / "o"), "--json"]).output)
    assert told["facts"]["files"] == 2 and told["facts"]["patches"] == 5, told
    rows = FeatureFiles.at(tmp_path / "o").rows(open_collection([stores / "two.h5", stores / "slide.1.h5"]))
    assert rows.shape == (5, 512)
