"""`predict` on files of features: what the classifier says of each bag, and what is refused in a sentence."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from feature_bags import drawn, feature_folder, write_features
from predict.test_outcomes import save_run

from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.mil.model import load_slide_classifier
from wsitool.mil.options import SlideSettings
from wsitool.mil.run import classify_slides
from wsitool.predict import of_features
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features with slides.csv, and run: a classifier of slides trained on them, of the encoder "net"."""
    folder = tmp_path_factory.mktemp("of_features")
    features = feature_folder(folder)
    for number in range(12):
        path = features / f"s{number}.h5"
        with h5py.File(path) as file:
            rows = file["features"][:]
        write_features(path, rows, encoder="net", digest="d1")
    settings = SlideSettings(level="slide", head="attention", epochs=12, bags_per_step=2, head_lr=0.05)
    classify_slides(features, out=folder / "run", settings=settings, labels=folder / "slides.csv", folds=3)
    return folder


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_bag_gets_the_heads_own_verdict_and_attention(folder: Path, tmp_path: Path) -> None:
    result = predict(folder / "run", iter([folder / "features"]), tmp_path / "out")
    classifier = load_slide_classifier(folder / "run")
    assert len(result.slides) == 12 and not result.failed
    for slide in result.slides:
        with h5py.File(folder / "features" / f"{slide.name}.h5") as file:
            features, coords = file["features"][:], file["coords"][:]
        with torch.no_grad():
            logits, attention = classifier.head(torch.from_numpy(features))
        p = torch.softmax(logits.double() / classifier.card.temperature, 0).numpy()
        assert list(slide.mean.values()) == pytest.approx(p.tolist(), abs=2e-6)
        rows = _table(tmp_path / "out" / f"{slide.files}.csv")
        assert [[int(row["x"]), int(row["y"])] for row in rows] == coords.tolist()
        assert [float(row["attention"]) for row in rows] == pytest.approx(attention.tolist(), rel=1e-4)
        geojson = json.loads((tmp_path / "out" / f"{slide.files}.geojson").read_text())
        tiles = [one for one in geojson["features"] if one["properties"]["objectType"] == "tile"]
        assert len(tiles) == len(rows)
        first = [int(number) for number in np.argsort(-attention.numpy(), kind="stable")[:10]]
        assert [one.x for one in result.attended(slide)] == [coords[number, 0] for number in first]
        assert (tmp_path / "out" / f"{slide.files}.attention.jpg").is_file()


def test_a_bad_file_or_another_encoder_is_named_and_stops_no_other(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(folder / "features", given)
    (given / "a_damaged.h5").write_bytes(b"\x89HDF no more")
    write_features(given / "wide.h5", np.zeros((4, 7), np.float32))
    write_features(given / "other.h5", drawn(3, 1), encoder="other net")
    write_features(given / "weights.h5", drawn(3, 1), encoder="net", digest="d2")
    write_features(given / "nan.h5", np.full((4, 6), np.nan, np.float32), encoder="net", digest="d1")
    done = CliRunner().invoke(
        main, ["predict", str(folder / "run"), str(given), "--out", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert len(said["slides"]) == 12 and len(said["slides"][0]["most_attended"]) >= 5
    reasons = dict(said["failed"])
    assert set(reasons) == {"a_damaged", "wide", "other", "weights", "nan"}
    assert "wide.h5' has 7 values a patch and the classifier was trained on 6" in reasons["wide"]
    assert "'other net'" in reasons["other"] and "'net'" in reasons["other"]
    assert "weights.h5' says it is of other weights" in reasons["weights"]
    assert "not finite" in reasons["nan"] and "cannot be read" in reasons["a_damaged"]


def test_what_is_finished_is_kept_and_a_stop_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(folder / "run", folder / "features", tmp_path / "whole")
    plain = of_features.read_rows
    read: list[str] = []

    def until_fourth(path: Path, rows: object) -> np.ndarray:
        read.append(path.name)
        if len(read) == 4:
            raise KeyboardInterrupt
        return plain(path, rows)

    monkeypatch.setattr(of_features, "read_rows", until_fourth)
    with pytest.raises(KeyboardInterrupt):
        predict(folder / "run", folder / "features", tmp_path / "part")
    again = predict(folder / "run", folder / "features", tmp_path / "part")
    # Three were done; the fourth and the others were read once more.
    assert again.kept == 3 and len(read) == 4 + 9
    for slide in whole.slides:
        name = f"{slide.files}.csv"
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [slide.verdict for slide in again.slides] == [slide.verdict for slide in whole.slides]


def test_files_without_places_get_a_table_by_row(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(folder / "features" / "s3.h5") as file:
        rows = torch.from_numpy(file["features"][:])
    (tmp_path / "clam" / "pt_files").mkdir(parents=True)
    torch.save(rows, tmp_path / "clam" / "pt_files" / "s3.pt")
    done = CliRunner().invoke(
        main, ["predict", str(folder / "run"), str(tmp_path / "clam"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "do not say which encoder made them" in done.stderr and "where their patches lie" in done.stderr
    assert {path.name for path in (tmp_path / "out").glob("s3*")} == {"s3.csv"}
    table = _table(tmp_path / "out" / "s3.csv")
    assert [int(row["row"]) for row in table] == list(range(len(rows))) and "x" not in table[0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "patches of most attention" in page and "row " in page
    again = predict(folder / "run", tmp_path / "clam", tmp_path / "out")
    assert again.kept == 1 and not again.pictures and len(again.patches) == len(rows)


def test_an_embedded_import_is_judged_image_by_image(folder: Path, tmp_path: Path) -> None:
    path = write_features(tmp_path / "patient.h5", np.concatenate([drawn(1, 0), drawn(2, 1)]), encoder="net")
    with h5py.File(path, "a") as file:
        file.create_dataset("source", data=["a.png"] * 12 + ["b.png"] * 12, dtype=h5py.string_dtype())
    result = predict(folder / "run", path, tmp_path / "out")
    assert [(slide.name, slide.group, slide.patches) for slide in result.slides] == [
        ("a", "patient", 12),
        ("b", "patient", 12),
    ]
    assert [slide.verdict.leading for slide in result.slides] == ["a", "b"]


def test_what_cannot_be_is_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    of_patches = save_run(tmp_path / "run")
    with pytest.raises(UsageError, match="judges patches by itself: pass the slides or their stores"):
        predict(of_patches, folder / "features", tmp_path / "out")
    with pytest.raises(UsageError, match="--mpp says how slides are read"):
        predict(folder / "run", folder / "features", tmp_path / "out", options=PredictOptions(mpp=0.5))
    with pytest.raises(UsageError, match="pass one kind"):
        predict(folder / "run", [folder / "features", tmp_path / "x.svs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
