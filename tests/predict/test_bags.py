"""From slides to a classifier of slides and back: verdict, attention, files; of stores and slides alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from wsitool.cli import main
from wsitool.mil.feature_rows import read_rows
from wsitool.mil.model import SlideClassifier, load_slide_classifier
from wsitool.predict.run import predict
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide

_CLASSIFY = ("--level", "slide", "--backbone", "resnet18", "--encoder", "random", "--image-size", "32")
_HEAD = ("--head", "attention", "--epochs", "2", "--validation", "0", "--device", "cpu", "--folds", "2")


def _wsitool(*words: str | Path) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides, their patches, slides.csv, and run: a classifier of slides trained on the patches."""
    folder = tmp_path_factory.mktemp("bags")
    (folder / "slides").mkdir()
    lines = ["file,label,group"]
    for number in range(4):
        kind = ("benign", "dcis")[number % 2]
        slide = folder / "slides" / f"s{number}.svs"
        synthetic_slide(
            slide, organ="breast", kind=kind, size=(500, 400), mpp=0.5, compression="none", seed=number
        )
        lines.append(f"s{number},{kind},p{number}")
    (folder / "slides.csv").write_text("\n".join(lines))
    tile = ("--patch-size", "64", "--mpp", "0.5", "--workers", "1", "--codec", "raw")
    _wsitool("tile", folder / "slides", "--out", folder / "patches", *tile)
    labels = ("--labels", folder / "slides.csv")
    _wsitool("classify", folder / "patches", *_CLASSIFY, *_HEAD, *labels, "--out", folder / "run")
    return folder


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_slide_and_its_store_get_the_classifiers_verdict(folder: Path, tmp_path: Path) -> None:
    of_slide = predict(folder / "run", folder / "slides" / "s1.svs", tmp_path / "slide")
    of_store = predict(folder / "run", folder / "patches" / "s1.h5", tmp_path / "store")
    classifier = load_slide_classifier(folder / "run")
    (features,) = (
        rows
        for path in (folder / "run" / "features").glob("*.npy")
        if len(rows := read_rows(path, None)) and _is_of(rows, classifier, folder / "patches" / "s1.h5")
    )
    said = classifier.judge(features)
    expected = np.exp(said.logits) / np.exp(said.logits).sum()
    for result in (of_slide, of_store):
        (slide,) = result.slides
        assert list(slide.mean.values()) == pytest.approx(expected.tolist(), abs=2e-5)
        rows = _table(result.out / f"{slide.files}.csv")
        attention = [float(row["attention"]) for row in rows]
        assert attention == pytest.approx(said.attention.tolist(), rel=1e-3)
        assert sum(attention) == pytest.approx(1, abs=1e-4)
        called = {float(row["p_dcis"]) for row in rows}
        assert slide.verdict.leading == classifier.card.classes[int(expected.argmax())] and len(called) > 1
        with Image.open(result.out / f"{slide.files}.attention.jpg") as picture:
            assert picture.width > 100
        geojson = json.loads((result.out / f"{slide.files}.geojson").read_text())
        tiles = [one for one in geojson["features"] if one["properties"]["objectType"] == "tile"]
        measured = [
            {each["name"]: each["value"] for each in one["properties"]["measurements"]} for one in tiles
        ]
        relative = [one["relative_attention"] for one in measured]
        assert np.mean(relative) == pytest.approx(1, abs=1e-4) and len(relative) == len(rows)
    again = predict(folder / "run", folder / "slides" / "s1.svs", tmp_path / "slide")
    assert again.kept == 1 and again.slides[0].mean == of_slide.slides[0].mean


def _is_of(rows: np.ndarray, classifier: SlideClassifier, store: Path) -> bool:
    """Whether a file of features is that of a store, by its first patch."""
    with open_store(store) as opened:
        if len(opened) != len(rows):
            return False
        patches = torch.from_numpy(opened.read([0])).permute(0, 3, 1, 2)
    with torch.no_grad():
        return bool(np.allclose(classifier.features(patches).numpy()[0], rows[0], atol=1e-3))


def test_embeds_files_give_what_stores_give(folder: Path, tmp_path: Path) -> None:
    how = ("--backbone", "resnet18", "--image-size", "32", "--device", "cpu")
    _wsitool("embed", folder / "patches", "--encoder", "random", *how, "--out", tmp_path / "features")
    # Also judged by the classifier of the stores: the files say that they are of its very encoder.
    of_files = predict(folder / "run", tmp_path / "features", tmp_path / "files")
    of_stores = predict(folder / "run", folder / "patches", tmp_path / "stores")
    assert [slide.name for slide in of_files.slides] == [slide.name for slide in of_stores.slides]
    for one, other in zip(of_files.slides, of_stores.slides, strict=True):
        assert list(one.mean.values()) == pytest.approx(list(other.mean.values()), abs=2e-5)
        mine, theirs = (_table(place.out / f"{one.files}.csv") for place in (of_files, of_stores))
        assert [(row["x"], row["y"], row["size"]) for row in mine] == [
            (row["x"], row["y"], row["size"]) for row in theirs
        ]
    other = ("--backbone", "resnet18", "--image-size", "48", "--device", "cpu")
    _wsitool("embed", folder / "patches", "--encoder", "random", *other, "--out", tmp_path / "larger")
    refused = predict(folder / "run", tmp_path / "larger", tmp_path / "refused")
    assert not refused.slides and "another image size" in refused.failed[0][1]
    labels = ("--labels", folder / "slides.csv", "--level", "slide")
    _wsitool("classify", tmp_path / "features", *labels, *_HEAD, "--out", tmp_path / "run")
    mine, theirs = (_table(one / "run" / "predictions.csv") for one in (tmp_path, folder))
    assert [row["slide"] for row in mine] == [row["slide"] for row in theirs]
    for column in ("p_benign", "p_dcis"):
        assert [float(row[column]) for row in mine] == pytest.approx(
            [float(row[column]) for row in theirs], abs=1e-4
        )


def test_the_command_and_its_page_speak_of_the_slide(folder: Path, tmp_path: Path) -> None:
    text = _wsitool("predict", folder / "run", folder / "patches", "--out", tmp_path / "out")
    assert "class of highest probability; uncertain" in text and "mean probability" not in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "patches of most attention" in page and "x the mean" in page


def test_features_that_are_made_are_not_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    from wsitool.mil import making

    plain = making.encode
    monkeypatch.setattr(making, "encode", lambda *a, **k: (made.append(1), plain(*a, **k))[1])
    where = ("--cache", tmp_path / "cache", "--labels", folder / "slides.csv")
    for head in ("mean", "attention"):
        words = ("--head", head, "--c", "0.1", *_HEAD[2:])
        _wsitool("classify", folder / "patches", *_CLASSIFY, *words, *where, "--out", tmp_path / head)
    assert len(made) == 4
