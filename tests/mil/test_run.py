"""`classify --level slide` on files of features: laws of a run, and one sentence for what cannot be."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from feature_bags import drawn, feature_folder, write_features
from logging_libraries import stand_in

from wsitool.classify.result import ClassifyResult
from wsitool.cli import main
from wsitool.errors import EncoderError, LabelError, StoreError, UsageError, WsitoolError
from wsitool.mil import bags as bag_reading
from wsitool.mil.model import load_slide_classifier
from wsitool.mil.options import SlideSettings
from wsitool.mil.run import classify_slides
from wsitool.predict.run import predict

QUICK = {"epochs": 12, "bags_per_step": 2, "head_lr": 0.05, "attention_dim": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return feature_folder(tmp_path_factory.mktemp("mil"))


def _run(
    features: Path | list[Path], out: Path, *, settings: dict[str, Any] | None = None, **options: Any
) -> ClassifyResult:
    table = (features if isinstance(features, Path) else features[0]).parent / "slides.csv"
    chosen = SlideSettings(**{"level": "slide", **QUICK, **(settings or {})})
    return classify_slides(features, out=out, settings=chosen, **{"labels": table, "folds": 3, **options})


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_loggers_are_told_of_epochs_and_figures(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = stand_in("wandb", monkeypatch)
    settings = {"head": "attention", "epochs": 2, "validation": 0.3}
    result = _run(features, tmp_path / "run", settings=settings, logger=("wandb",))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    assert list(library.run.rows.values()) == rows and rows
    assert library.run.figures["folds/accuracy"] == result.scores["accuracy"]


@pytest.mark.parametrize("head", ["mean", "attention"])
def test_every_slide_is_judged_by_a_fold_without_its_patient(
    features: Path, tmp_path: Path, head: str
) -> None:
    result = _run(features, tmp_path / "run", settings={"head": head})
    assert result.scores["slides"] == 12 and result.scores["auroc"] == 1.0
    assert "patches" not in result.scores and "12 slides (folds)" in result.summary
    rows = _rows(tmp_path / "run")
    assert sorted(row["slide"] for row in rows) == sorted(f"s{number}" for number in range(12))
    fold_of: dict[str, set[str]] = {}
    for row in rows:
        fold_of.setdefault(row["group"], set()).add(row["part"])
    assert all(len(folds) == 1 for folds in fold_of.values()) and len(set.union(*fold_of.values())) == 3
    # The classifier that is kept says what its file says.
    classifier = load_slide_classifier(tmp_path / "run")
    assert classifier.card.groups == tuple(f"p{number}" for number in range(6))
    with h5py.File(features / "s3.h5") as file:
        judged = classifier.judge(file["features"][:])
    assert classifier.card.classes[judged.logits.argmax()] == "b"
    assert judged.attention @ judged.each == pytest.approx(judged.logits, abs=1e-4)
    if head == "attention":
        # The four patches that tell the class, of 14.
        assert judged.attention[:4].sum() > 0.5


def test_the_same_seed_is_the_same_run_whatever_fits_in_memory(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"head": "attention", "epochs": 3}
    _run(features, tmp_path / "a", settings=chosen, seed=3)
    monkeypatch.setattr(bag_reading, "_KEPT_BYTES", 0)
    torch.manual_seed(5)
    _run(features, tmp_path / "b", settings=chosen, seed=3)
    for name in ("slide-classifier.safetensors", "predictions.csv", "metrics.json", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    kept = _run(features, tmp_path / "a", settings=chosen, seed=3, resume="auto")
    assert kept.scores["slides"] == 12
    with pytest.raises(UsageError, match="other choices"):
        _run(features, tmp_path / "a", settings={"head": "mean"}, seed=3, resume="auto")


def test_large_bags_are_read_again_and_one_at_a_time(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a step's few small bags are in memory where nothing may be kept."""
    read: list[Path] = []
    plain = bag_reading.read_rows
    monkeypatch.setattr(bag_reading, "_KEPT_BYTES", 0)
    monkeypatch.setattr(
        bag_reading, "read_rows", lambda path, rows: (read.append(path), plain(path, rows))[1]
    )
    _run(features, tmp_path / "mean", settings={"head": "mean", "c": 0.1}, folds=2)
    # Once for its mean, once when its fold judges it.
    assert len(read) == 24 and len(set(read)) == 12


def test_fewer_labels_lie_in_more(features: Path, tmp_path: Path) -> None:
    trained = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        _run(features, out, settings={"c": 0.1}, labels_per_class=count)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["train"]["per_class"] == {"a": count, "b": count}
        trained[count] = {bag["name"] for bag in manifest["train"]["bags"]}
    assert trained[1] < trained[2]


def test_all_slides_of_a_patient_are_one_bag(features: Path, tmp_path: Path) -> None:
    result = _run(features, tmp_path / "run", settings={"level": "patient"})
    assert result.scores["patients"] == 6
    sizes = {row["slide"]: int(row["patches"]) for row in _rows(tmp_path / "run")}
    # Slides of 5 + 3 (i mod 4) patches, two a patient.
    assert sizes == {f"p{i}": 13 if i % 2 == 0 else 25 for i in range(6)}


def test_test_slides_and_the_page(features: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    shutil.copy(features.parent / "slides.csv", table)
    for number in range(12):
        side = "test" if number >= 8 else "train"
        (tmp_path / side).mkdir(exist_ok=True)
        shutil.copy(features / f"s{number}.h5", tmp_path / side)
    words = [tmp_path / "train", "--test", tmp_path / "test", "--labels", table, "--out", tmp_path / "run"]
    done = CliRunner().invoke(main, ["classify", *map(str, words), "--level", "slide", "--json"])
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    assert metrics["test"]["slides"] == 4 and metrics["level"] == "slide"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "judged on 4 test slides" in page and "8 slides of 4 groups" in page
    info = CliRunner().invoke(main, ["info", str(tmp_path / "run")])
    assert info.exit_code == 0 and "slide" in info.output
    with pytest.raises(EncoderError, match="trained on features made elsewhere"):
        predict(tmp_path / "run", tmp_path / "slide.svs", tmp_path / "out")
    shutil.copy(features / "s0.h5", tmp_path / "test" / "s0.h5")
    with pytest.raises(UsageError, match="in both the training and the test data"):
        _run(tmp_path / "train", tmp_path / "again", test=tmp_path / "test", folds=None)


def test_features_of_clam_and_trident_are_the_same_bags(features: Path, tmp_path: Path) -> None:
    """.pt of CLAM, an axis of one slide in front, half precision: the same figures but for rounding."""
    shutil.copy(features.parent / "slides.csv", tmp_path)
    for number in range(12):
        with h5py.File(features / f"s{number}.h5") as file:
            rows = file["features"][:]
        (tmp_path / "clam" / "pt_files").mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(rows), tmp_path / "clam" / "pt_files" / f"s{number}.pt")
        write_features(tmp_path / "trident" / f"s{number}.h5", rows[None].astype(np.float16))
    plain = _run(features, tmp_path / "plain")
    clam, trident = (_run(tmp_path / name, tmp_path / f"run-{name}") for name in ("clam", "trident"))
    assert clam.scores["loss"] == plain.scores["loss"]
    assert trident.scores["loss"] == pytest.approx(plain.scores["loss"], abs=1e-3)


def _without_a_label(features: Path) -> None:
    _table(features, "s0,,p0")


def _of_no_slide(features: Path) -> None:
    _table(features, "nowhere.svs,a,p9")


def _no_patch(features: Path) -> None:
    write_features(features / "s1.h5", drawn(1, 0, 1)[:0])


def _two_of_a_patient(features: Path) -> None:
    _table(features, "s1.svs,b,p0", without="s1.svs")


def _other_width(features: Path) -> None:
    write_features(features / "s1.h5", np.zeros((3, 9), np.float32))


def _other_encoder(features: Path) -> None:
    for number in range(12):
        write_features(features / f"s{number}.h5", drawn(number, 0), encoder="uni" if number else "conch")


def _not_finite(features: Path) -> None:
    write_features(features / "s1.h5", np.full((3, 6), np.nan, np.float32))


def _of_patches(features: Path) -> None:
    (features.parent / "slides.csv").write_text("file,label,x,y\ns0,a,0,0\ns1,b,0,0\n")


def _one_class(features: Path) -> None:
    (features.parent / "slides.csv").write_text("file,label\ns0,a\ns1,a\n")


def _damaged(features: Path) -> None:
    (features / "s1.h5").write_bytes(b"no file of features")


def _table(features: Path, row: str, *, without: str = "-") -> None:
    path = features.parent / "slides.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(without)]
    path.write_text("\n".join([*lines, row]))


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (_without_a_label, LabelError, "line 14: s0 has no label"),
        (_of_no_slide, LabelError, "names 1 file(s) that no store holds, such as nowhere.svs"),
        (_no_patch, LabelError, "'p0' is labelled a and has no patches"),
        (_two_of_a_patient, LabelError, "The slides of patient 'p0' have different labels (a, b)"),
        (_other_width, UsageError, "have 6 and 9 values a patch: they are of different encoders"),
        (_other_encoder, UsageError, "are of different encoders ('conch' and 'uni')"),
        (_not_finite, StoreError, "s1.h5' holds features that are not finite"),
        (_of_patches, UsageError, "has labels of single patches (x and y)"),
        (_one_class, LabelError, "at least two classes, and all labelled patients are a"),
        (_damaged, StoreError, "cannot be read as a feature file"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    spoil: Any, error: type[WsitoolError], sentence: str, tmp_path: Path
) -> None:
    features = feature_folder(tmp_path)
    spoil(features)
    if spoil is _no_patch:
        write_features(features / "s0.h5", drawn(1, 0, 1)[:0])
    with pytest.raises(error) as told:
        _run(features, tmp_path / "run", settings={"level": "patient"})
    assert sentence in str(told.value) and str(told.value).count("\n") == 0
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--split", "patch"), "--split patch is for labels of patches"),
        (("--head", "finetune"), "There is no head of slides 'finetune': choose one of mean, attention"),
        (("--select", "margin"), "asks for patches"),
        (("--encoder", "random"), "The features are made already"),
        (("--features", "x"), "features take the place of stores"),
        (("--fraction", "10"), "leaves no sample of class a, which has 4 slides"),
        (("--labels-per-class", "9"), "a has 6 slides to train on"),
    ],
)
def test_options_that_do_not_fit(
    features: Path, tmp_path: Path, words: tuple[str, str], sentence: str
) -> None:
    table = ["--labels", str(features.parent / "slides.csv"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(
        main, ["classify", str(features), "--level", "slide", *table, "--folds", "3", *words]
    )
    assert done.exit_code == 2 or done.exit_code == 1
    assert sentence in " ".join(done.stderr.split())


def test_unlabelled_slides_are_left_out_by_name(features: Path, tmp_path: Path) -> None:
    rows = (features.parent / "slides.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(rows[:9]))
    said: list[str] = []

    class Heard:
        def task(self, description: str, *, total: float, unit: str = "it") -> Any:
            from wsitool.base.progress import SILENT

            return SILENT.task(description, total=total, unit=unit)

        def say(self, message: str) -> None: ...

        def warn(self, message: str) -> None:
            said.append(message)

    result = _run(features, tmp_path / "run", labels=tmp_path / "some.csv", reporter=Heard())
    assert result.scores["slides"] == 8
    assert "4 of 12 training slides have no label and are left out: s10, s11, s8, s9." in said
