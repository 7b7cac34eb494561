"""One folder of features for every command: what one has computed no other computes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from experiment_plans import small_data, small_plan

import wsitool
from wsitool.backbones import features
from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.model import Classifier
from wsitool.errors import UsageError
from wsitool.experiment.run import experiment
from wsitool.labelling.opening import opened
from wsitool.labelling.options import LabelOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_data(tmp_path_factory.mktemp("data"))
    built = build_backbone("resnet18", init="random", seed=5)
    save_encoder(built, folder / "mine.safetensors", built.card)
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Patches that went through an encoder, a number for each pass."""
    passes: list[int] = []
    over_patches = features.over_patches

    def counted(module: Any, step: Any, collection: Any, *args: Any, **how: Any) -> Any:
        passes.append(len(collection))
        return over_patches(module, step, collection, *args, **how)

    monkeypatch.setattr(features, "over_patches", counted)
    return passes


def test_what_embed_made_is_found_by_all(data: Path, tmp_path: Path, computed: list[int]) -> None:
    stores, encoder, cache = data / "train", data / "mine.safetensors", tmp_path / "cache"
    kept = wsitool.embed(stores, encoder=encoder, out=tmp_path / "kept", cache=cache)
    assert sum(computed) == 108 and len(list(cache.iterdir())) == 6
    computed.clear()

    again = wsitool.embed(stores, encoder=encoder, out=tmp_path / "again", cache=cache)
    for one, other in zip(kept.files, again.files, strict=True):
        with h5py.File(one) as first, h5py.File(other) as second:
            assert np.array_equal(first["features"], second["features"])
            assert first["features"].attrs["made_from"] == second["features"].attrs["made_from"]

    wsitool.classify(
        stores, folds=2, encoder=str(encoder), head="linear", c=0.1, cache=str(cache), out=tmp_path / "run"
    )
    plan = small_plan(
        data, methods=("supervised",), init=str(encoder), fractions=(1.0,), seeds=1, cache=str(cache)
    )
    result = experiment(plan, tmp_path / "experiment", page=False)
    assert not list((tmp_path / "experiment").glob("features/features-*"))
    options = LabelOptions(classes=("a", "b", "c"), encoder=str(encoder), cache=str(cache))
    with opened(stores, tmp_path / "labels.db", options) as session:
        assert len(session) == 108
    assert computed == [] and len(list(cache.glob("*.npy"))) == 6

    # Without the folder it is the same experiment, to rounding: patches went through in other company.
    alone = experiment(
        small_plan(data, methods=("supervised",), init=str(encoder), fractions=(1.0,), seeds=1),
        tmp_path / "alone",
        page=False,
    )
    assert sum(computed) == 108
    for arm, expected in alone.results.arms.items():
        assert np.allclose(result.results.arms[arm].runs, expected.runs, atol=1e-4)


@pytest.mark.parametrize("level", ["patch", "slide"])
def test_predict_takes_what_classify_made_and_leaves_its_own(
    level: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, stores = tmp_path / "cache", data / "train"
    common = {"encoder": str(data / "mine.safetensors"), "c": 0.1, "cache": str(cache), "batch_size": 4}
    if level == "slide":
        table = "file,label\n" + "".join(f"p{n},{'ab'[n % 2]}\n" for n in range(6))
        (tmp_path / "slides.csv").write_text(table)
        common |= {"level": "slide", "labels": str(tmp_path / "slides.csv"), "head": "mean", "validation": 0}
    else:
        common |= {"head": "linear"}
    wsitool.classify(stores, folds=2, out=tmp_path / "run", **common)
    own = wsitool.predict(tmp_path / "run", [stores], out=tmp_path / "own", batch_size=4)

    passes: list[int] = []
    features_of = Classifier.features

    def counted(classifier: Classifier, patches: Any) -> Any:
        passes.append(len(patches))
        return features_of(classifier, patches)

    monkeypatch.setattr(Classifier, "features", counted)
    taken = wsitool.predict(tmp_path / "run", [stores], out=tmp_path / "taken", cache=cache)
    assert passes == []
    for file in cache.glob("*.npy"):
        file.unlink()
    made = wsitool.predict(tmp_path / "run", [stores], out=tmp_path / "made", cache=cache)
    assert sum(passes) == 108 and len(list(cache.glob("*.npy"))) == 6
    for slide, *others in zip(own.slides, taken.slides, made.slides, strict=True):
        for other in others:
            assert other.name == slide.name and other.verdict.verdict == slide.verdict.verdict
            assert other.mean == pytest.approx(slide.mean, abs=1e-5)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = small_plan(data, methods=("supervised",), cache=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="file"):
        experiment(plan, tmp_path / "out")
    with pytest.raises(UsageError, match="file"):
        wsitool.embed(
            data / "train", encoder=data / "mine.safetensors", out=tmp_path / "o", cache=tmp_path / "file"
        )
