"""Features that other programs made, in the files they make of them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from classify_stores import labelled_store
from PIL import Image

from wsitool.classify.model import load_classifier
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.curate.importing import import_images
from wsitool.errors import EncoderError, StoreError, UsageError
from wsitool.predict.embedding import embed

LINEAR = Settings(head="linear", c=0.1, validation=0)
ENCODER = {"encoder": "random", "backbone": "resnet18"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        labelled_store(folder / "stores" / f"p{number}.h5", per_class=4, seed=number)
    embed(folder / "stores", encoder="random", backbone="resnet18", out=folder / "features")
    return folder


def _as_trident(source: Path, target: Path, *, seed: int = 0) -> Path:
    """The same features in another order, with an axis in front, and of more patches than the store has."""
    target.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for path in source.glob("*.h5"):
        with h5py.File(path) as file, h5py.File(target / path.name, "w") as new:
            features, coords = file["features"][()], file["coords"][()]
            features = np.concatenate([features, rng.normal(size=(5, features.shape[1]))])
            coords = np.concatenate([coords, 90_000 + np.arange(10).reshape(5, 2)])
            order = rng.permutation(len(features))
            new["features"] = features[order][None].astype(np.float32)
            new["coords"] = coords[order]
            new["coords"].attrs.update(file["coords"].attrs)
    return target


def _predictions(run: Path) -> str:
    return (run / "predictions.csv").read_text()


def test_they_give_what_the_same_encoder_gives(data: Path, tmp_path: Path) -> None:
    classify(data / "stores", out=tmp_path / "own", settings=LINEAR, folds=2, **ENCODER)
    for name, folder in (
        ("ours", data / "features"),
        ("trident", _as_trident(data / "features", tmp_path / "features_x")),
        ("clam", _as_trident(data / "features", tmp_path / "clam" / "h5_files", seed=1).parent),
    ):
        result = classify(
            data / "stores", out=tmp_path / name, settings=LINEAR, folds=2, features=str(folder)
        )
        assert result.metrics["folds"]["accuracy"] > 0.5
        assert _predictions(tmp_path / name) == _predictions(tmp_path / "own")
    run = json.loads((tmp_path / "trident" / "run.json").read_text())
    assert run["encoder"]["backbone"] == "features:features_x"
    with pytest.raises(
        EncoderError, match=r"features made elsewhere \(features_x\), and there is no encoder"
    ):
        load_classifier(tmp_path / "trident")
    # a test set, from the same folder
    judged = classify(
        [data / "stores" / f"p{number}.h5" for number in (0, 1, 2)],
        out=tmp_path / "test",
        settings=LINEAR,
        test=str(data / "stores" / "p3.h5"),
        features=str(data / "features"),
    )
    assert judged.judged_on == "test" and judged.scores["patches"] == 12


def test_patches_of_several_images_in_one_store_are_told_apart(tmp_path: Path) -> None:
    """Imported images: each position is there once for every image."""
    for number in range(4):
        folder = tmp_path / "images" / f"{'plain' if number % 2 else 'dotted'}"
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(2):
            pixels = np.random.default_rng(10 * number + image).integers(0, 200, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"p{number}_{image}.png")
    import_images(
        tmp_path / "images", tmp_path / "stores", patch_size=32, min_tissue=0, group_regex="(p[0-9])_"
    )
    embed(tmp_path / "stores", out=tmp_path / "features", **ENCODER)
    classify(tmp_path / "stores", out=tmp_path / "own", settings=LINEAR, folds=2, **ENCODER)
    options = {"settings": LINEAR, "folds": 2, "features": str(tmp_path / "features")}
    classify(tmp_path / "stores", out=tmp_path / "read", **options)
    assert _predictions(tmp_path / "read") == _predictions(tmp_path / "own")
    # without the images' names nothing tells them apart
    for path in (tmp_path / "features").glob("*.h5"):
        with h5py.File(path, "a") as file:
            del file["source"]
    with pytest.raises(StoreError, match="has several rows at one position"):
        classify(tmp_path / "stores", out=tmp_path / "no", **options)


def _edit(path: Path, how: str) -> None:
    with h5py.File(path, "a") as file:
        if how == "lost":
            del file["coords"]
        elif how == "moved":
            file["coords"][3] = (7, 7)
        elif how == "other size":
            file["coords"].attrs["patch_size_level0"] = 1000
        elif how == "nan":
            file["features"][0, 0] = np.nan
        elif how == "short":
            kept = file["features"][:5]
            del file["features"]
            file["features"] = kept


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", r"There are no features of 'p1' in 'features': add p1\.h5"),
        ("lost", r"p1\.h5' cannot be read as a feature file"),
        ("moved", r"has no features for 1 of 12 patches of 'p1' \(first at \(96, 0\)\)"),
        ("other size", r"is of patches 1000 px wide at level 0, and those of 'p1' are "),
        ("nan", r"p1\.h5' holds features that are not finite"),
        ("short", r"must hold features \(N, D\) and coords \(N, 2\), got \(5, 512\), \(12, 2\)"),
        ("text", r"p1\.h5' cannot be read as a feature file"),
    ],
)
def test_what_does_not_fit_is_named(data: Path, tmp_path: Path, how: str, message: str) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for path in (data / "features").glob("*.h5"):
        (folder / path.name).write_bytes(path.read_bytes())
    if how == "absent":
        (folder / "p1.h5").unlink()
    elif how == "text":
        (folder / "p1.h5").write_text("features")
    else:
        _edit(folder / "p1.h5", how)
    with pytest.raises(StoreError, match=message):
        classify(data / "stores", out=tmp_path / "out", settings=LINEAR, folds=2, features=str(folder))
    assert not (tmp_path / "out").exists()


def test_choices_that_cannot_be(data: Path, tmp_path: Path) -> None:
    features = str(data / "features")
    with pytest.raises(UsageError, match="use --head linear or knn"):
        classify(data / "stores", out=tmp_path / "a", features=features)
    with pytest.raises(UsageError, match="leave out --encoder and --backbone"):
        classify(data / "stores", out=tmp_path / "a", settings=LINEAR, folds=2, features=features, **ENCODER)
    with pytest.raises(UsageError, match="holds no feature files: pass a folder of CLAM's or TRIDENT's"):
        classify(data / "stores", out=tmp_path / "a", settings=LINEAR, folds=2, features=str(tmp_path))
