from __future__ import annotations

import errno
import signal
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from classify_stores import labelled_store
from click.testing import CliRunner
from patch_stores import patch_folder, small_store
from PIL import Image
from sklearn.decomposition import PCA

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.base.interrupt import Interrupted
from wsitool.cli import main
from wsitool.errors import StoreError, UsageError
from wsitool.predict import embedding, store_features
from wsitool.predict.embedding import embed, project
from wsitool.predict.result import EmbedResult
from wsitool.store.collection import open_collection


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    built = build_backbone("resnet18", init="random")
    save_encoder(built, path, built.card)
    return path


def test_features_lie_beside_their_coordinates_as_clam_reads_them(encoder: Path, tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", each=7)
    result = embed(stores, encoder=encoder, out=tmp_path / "features", batch_size=3)
    assert [path.name for path in result.files] == ["stores-0.h5", "stores-1.h5"]
    network = build_backbone(init=encoder).eval()
    for store, path in zip(open_collection(stores).stores, result.files, strict=True):
        with h5py.File(path) as file:
            features, coords = file["features"][:], file["coords"][:]
            assert (
                file["coords"].attrs["patch_size_level0"] == 32
                and file["coords"].attrs["name"] == store.meta.name
            )
        patches = torch.from_numpy(store.read(range(7))).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            assert np.allclose(features, network(patches).numpy(), atol=1e-4)
        assert features.dtype == np.float32 and np.array_equal(coords, store.coords)
    with Image.open(result.map) as picture:
        assert picture.size[0] > 300
    with pytest.raises(
        UsageError, match=r"stores-0\.h5 exists already and was not made of these .* --overwrite"
    ):
        embed(stores, encoder=encoder, out=tmp_path / "features", image_size=16)


def test_features_of_sixteen_bits_are_told_from_others(encoder: Path, tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", each=7)
    features = {}
    for precision in ("32", "bf16"):
        done = embed(stores, encoder=encoder, out=tmp_path / precision, precision=precision)
        with h5py.File(done.files[0]) as file:
            features[precision] = file["features"][:]
    distance = np.linalg.norm(features["32"] - features["bf16"]) / np.linalg.norm(features["32"])
    assert 0 < distance < 0.02 and features["bf16"].dtype == np.float32
    with pytest.raises(UsageError, match="was not made of these"):
        embed(stores, encoder=encoder, out=tmp_path / "bf16", precision="32")


def test_half_the_size(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 is numpy's rounding of the same features, kept as such, refused where it is too small."""
    stores, made = patch_folder(tmp_path / "stores", each=5), []
    exact = embed(stores, encoder=encoder, out=tmp_path / "exact").features()
    half = embed(stores, encoder=encoder, out=tmp_path / "half", dtype="float16")
    with h5py.File(half.files[0]) as file:
        assert file["features"].dtype == np.float16
    np.testing.assert_array_equal(half.features(), exact.astype(np.float16).astype(np.float32))
    before = [path.stat().st_mtime_ns for path in half.files]
    embed(stores, encoder=encoder, out=tmp_path / "half", dtype="float16")
    assert [path.stat().st_mtime_ns for path in half.files] == before
    with pytest.raises(UsageError, match="was not made of these"):
        embed(stores, encoder=encoder, out=tmp_path / "half")
    real = store_features.encode

    def large(*arguments: Any, **options: Any) -> Any:
        # One store's features are let go before the next are made.
        assert all(weak() is None for weak in made)
        features = real(*arguments, **options) * 1e6
        made.append(weakref.ref(features))
        return features

    monkeypatch.setattr(store_features, "encode", large)
    result = embed(stores, encoder=encoder, out=tmp_path / "large", dtype="float16")
    assert not result.files and "use --dtype float32" in result.failed[0][1] and len(made) == 2


def test_the_map_is_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(50, 6)) * [9, 5, 1, 1, 0.5, 0.1] + 3).astype(np.float32)
    ours, theirs = project(features), PCA(2).fit_transform(features)
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=1e-3)


def test_color_by_label_and_what_does_not_fit(encoder: Path, tmp_path: Path) -> None:
    stores = labelled_store(tmp_path / "a.h5", per_class=3)
    assert embed(stores, encoder=encoder, out=tmp_path / "f", color="label").map.is_file()
    plain = patch_folder(tmp_path / "plain", each=3)
    for options, message in (
        ({"color": "label"}, "hold no labels"),
        ({"color": "patient"}, "--color must be one of slide, label, got 'patient'"),
        ({"projection": "tsne"}, "must be one of pca, umap, got 'tsne'"),
    ):
        with pytest.raises(UsageError, match=message):
            embed(plain, encoder=encoder, out=tmp_path / "g", **options)
    assert not (tmp_path / "g").exists()


@pytest.mark.slow  # compiles for ten seconds
def test_umap_keeps_two_clouds_apart(encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("umap", reason="the extra [umap] is not installed")
    rng = np.random.default_rng(0)
    clouds = np.concatenate([rng.normal(size=(40, 8)) + 9, rng.normal(size=(40, 8)) - 9])
    points = project(clouds.astype(np.float32), "umap")
    one, two = points[:40], points[40:]
    assert points.shape == (80, 2)
    apart = np.linalg.norm(one.mean(axis=0) - two.mean(axis=0))
    assert apart > 2 * max(one.std(axis=0).max(), two.std(axis=0).max())
    stores = patch_folder(tmp_path / "stores", each=12)
    result = embed(stores, encoder=encoder, out=tmp_path / "features", projection="umap")
    assert result.method == "umap" and result.map.is_file()


def _content(path: Path) -> dict[str, Any]:
    """What is in a file of features, save the folder it says it is in."""
    with h5py.File(path) as file:
        found: dict[str, Any] = {name: file[name][:].tolist() for name in file}
        for name in file:
            values = {key: np.asarray(value).tolist() for key, value in file[name].attrs.items()}
            found[f"{name} attributes"] = {key: values[key] for key in values if key != "savetodir"}
        return found


@pytest.mark.parametrize(
    ("where", "number"), [("encode", 1), ("encode", 3), ("_write_columns", 2), ("_draw", 1)]
)
def test_a_stopped_run_goes_on_and_a_failing_store_costs_itself(
    encoder: Path, tmp_path: Path, where: str, number: int
) -> None:
    stores = patch_folder(tmp_path / "stores", stores=3, each=4)

    def run(name: str, error: BaseException | None = None) -> tuple[EmbedResult, int]:
        calls = [0]
        with pytest.MonkeyPatch.context() as patch:
            for at in dict.fromkeys(("encode", where)):
                home = embedding if at == "_draw" else store_features
                real = getattr(home, at)

                def called(*arguments: Any, _at: str = at, _real: Any = real, **options: Any) -> Any:
                    calls[0] += _at == "encode"
                    counts[_at] = counts.get(_at, 0) + 1
                    if error is not None and _at == where and counts[_at] == number:
                        raise error
                    return _real(*arguments, **options)

                patch.setattr(home, at, called)
            return embed(stores, encoder=encoder, out=tmp_path / name), calls[0]

    counts: dict[str, int] = {}
    with pytest.raises(Interrupted) as stopped:
        run("stopped", Interrupted(signal.SIGTERM))
    if where != "_draw":
        assert str(stopped.value) == f"Stopped by SIGTERM: {number - 1} of 3 stores done; run again to go on"
    counts = {}
    result, computed = run("stopped")
    assert (len(result.files), computed) == (3, 0 if where == "_draw" else 4 - number)
    counts = {}
    run("whole")
    names = ["map.png", *(path.name for path in result.files)]
    for out in ("stopped", "whole"):
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == sorted(names)
    assert (tmp_path / "stopped" / "map.png").read_bytes() == (tmp_path / "whole" / "map.png").read_bytes()
    for path in result.files:
        assert _content(tmp_path / "stopped" / path.name) == _content(tmp_path / "whole" / path.name)
    if where == "_draw":
        return
    counts = {}
    result, _ = run("failed", OSError(errno.EIO, "Input/output error"))
    assert len(result.files) == 2 and len(result.failed) == 1 and result.map is not None
    counts = {}
    assert run("failed")[1] == 1


def test_out_is_tried_before_anything_is_computed(encoder: Path, tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", each=3)
    (tmp_path / "file").write_text("mine")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match="Nothing can be written to"):
        patch.delattr(store_features, "encode")
        embed(stores, encoder=encoder, out=tmp_path / "file" / "below")


def test_features_say_which_image_and_label_a_row_has(encoder: Path, tmp_path: Path) -> None:
    """Stores of two runs, whose own numbers of the classes differ: `label` counts in one list for all."""
    small_store(tmp_path / "in" / "a.h5", ("dcis", None), sources=("x.png", "유방.png"))
    small_store(tmp_path / "in" / "b.h5", ("adh", "dcis", "adh"), sources=("../y.png",))
    small_store(tmp_path / "in" / "c.h5", (None,))
    embed(tmp_path / "in", encoder=encoder, out=tmp_path / "out")
    collection = open_collection(tmp_path / "in")
    for number, (store, name) in enumerate(zip(collection.stores, "abc", strict=True)):
        rows = collection.store_index == number
        with h5py.File(tmp_path / "out" / f"{name}.h5") as file:
            assert set(file) == {"coords", "features", "tissue"} | (
                set() if name == "c" else {"label", "source"}
            )
            np.testing.assert_array_equal(file["tissue"][:], store.tissue)
            if name == "c":
                continue
            assert file["label"].attrs["classes"].tolist() == list(collection.classes)
            np.testing.assert_array_equal(file["label"][:], collection.labels[rows])
            assert file["source"].asstr()[:].tolist() == collection.sources[rows].tolist()
            attributes = file["coords"].attrs
            assert attributes["level0_magnification"] == attributes["target_magnification"] == 20.0


def test_a_store_that_cannot_be_opened_costs_itself(encoder: Path, tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", stores=3, each=4)
    first, second, third = sorted(stores.glob("*.h5"))
    second.write_bytes(second.read_bytes()[:3000])
    result = embed(stores, encoder=encoder, out=tmp_path / "out")
    assert [path.stem for path in result.files] == [first.stem, third.stem] and result.map is not None
    assert [name for name, _ in result.failed] == [second.name] and "\n" not in result.failed[0][1]
    run = CliRunner().invoke(
        main, ["embed", str(stores), "--encoder", str(encoder), "--out", str(tmp_path / "o")]
    )
    assert run.exit_code == 1 and f"Error: {second.name}: " in run.output
    for path in (first, third):
        path.write_bytes(b"")
    with pytest.raises(StoreError, match=first.name):
        embed(stores, encoder=encoder, out=tmp_path / "none")
