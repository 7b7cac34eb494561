import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classify_stores import CLASSES, labelled_store
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import EncoderCard, LineageStep
from wsitool.backbones.files import save_encoder
from wsitool.base.lock import locked
from wsitool.classify.cross_validation import ClassificationTask
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import load_classifier
from wsitool.classify.result import ClassifyResult
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.evaluation.labels import label_patches
from wsitool.evaluation.summary import evaluate
from wsitool.store.collection import open_collection

QUICK = Settings(epochs=3, batch_size=16, lr=1e-3, device="cpu")


class Heard:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def task(self, description, *, total, unit="it"):
        from wsitool.base.progress import SILENT

        return SILENT.task(description, total=total, unit=unit)

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for number in range(6):
        part = "test" if number >= 4 else "train"
        labelled_store(folder / part / f"p{number}.h5", seed=number)
    return folder


@pytest.fixture(scope="module")
def finished(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "a"
    classify(
        stores / "train",
        out=out,
        encoder="random",
        backbone="resnet18",
        fraction=0.5,
        test=stores / "test",
        settings=QUICK,
    )
    return out


def _predictions(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_promised_is_there(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "classifier.safetensors",
        "confusion.png",
        "curves.png",
        "manifest.json",
        "metrics.csv",
        "metrics.json",
        "predictions.csv",
        "run.json",
    }


def test_metrics_equal_scikit_learn_on_the_predictions_file(finished: Path) -> None:
    found = json.loads((finished / "metrics.json").read_text())["test"]
    rows = [row for row in _predictions(finished) if row["part"] == "test"]
    p = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    p /= p.sum(1, keepdims=True)
    y = np.array([CLASSES.index(row["label"]) for row in rows])
    assert len(rows) == 48
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found["macro_f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=2e-3)
    assert found["loss"] == pytest.approx(log_loss(y, p), abs=1e-4)


def test_subset_is_balanced_and_patients_are_apart(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["subset"]["per_class"] == dict.fromkeys(CLASSES, 16)  # half of 4 patients x 8
    train, validation, test = (set(manifest[part]["groups"]) for part in ("train", "validation", "test"))
    assert not train & validation and not (train | validation) & test
    assert manifest["train"]["patches"] + manifest["validation"]["patches"] == 48


def test_lowest_validation_loss_is_kept(finished: Path) -> None:
    with (finished / "metrics.csv").open() as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert len(losses) == 3
    assert metrics["validation"]["loss"] == pytest.approx(min(losses), abs=1e-5)


def test_saved_classifier_gives_the_same_predictions(finished: Path, stores: Path) -> None:
    classifier = load_classifier(finished)
    logits = predict_logits(classifier, open_collection(stores / "test"), device="cpu")
    rows = [row for row in _predictions(finished) if row["part"] == "test"]
    expected = [[float(row[f"p_{name}"]) for name in CLASSES] for row in rows]
    found = torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_same_seed_same_numbers_and_same_subset_for_every_arm(stores: Path, tmp_path: Path) -> None:
    def run(name: str, head: str, seed: int) -> Path:
        classify(
            stores / "train",
            out=tmp_path / name,
            encoder="random",
            backbone="resnet18",
            fraction=0.5,
            settings=Settings(epochs=1, batch_size=16, head=head, device="cpu"),  # type: ignore[arg-type]
            seed=seed,
        )
        return tmp_path / name

    first, again, linear, other = (
        run("1", "finetune", 0),
        run("2", "finetune", 0),
        run("3", "linear", 0),
        run("4", "linear", 1),
    )
    assert (first / "metrics.json").read_text() == (again / "metrics.json").read_text()
    hashes = [
        json.loads((out / "manifest.json").read_text())["subset"]["hash"] for out in (first, linear, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_without_test_the_validation_is_named(stores: Path, tmp_path: Path) -> None:
    heard = Heard()
    result = classify(
        stores / "train",
        out=tmp_path / "r",
        encoder="random",
        backbone="resnet18",
        settings=Settings(head="linear", device="cpu"),
        reporter=heard,
    )
    assert result.judged_on == "validation" and "test" not in result.metrics
    assert any("validation patches" in warning and "optimistic" in warning for warning in heard.warnings)


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_folds_judge_every_patch_by_others(stores: Path, tmp_path: Path, head: str) -> None:
    result = classify(
        [stores / "train", stores / "test"],
        out=tmp_path / "r",
        encoder="random",
        backbone="resnet18",
        folds=3,
        settings=Settings(head=head, c=0.01, validation=0, device="cpu"),  # type: ignore[arg-type]
        cache=tmp_path / "cache",
    )
    assert result.scores["patches"] == 144 and result.scores["accuracy"] > 0.8
    folds = {}
    for row in _predictions(tmp_path / "r"):
        folds.setdefault(row["group"], set()).add(row["part"])
    assert len(folds) == 6 and all(len(parts) == 1 for parts in folds.values())
    assert len(list((tmp_path / "cache").iterdir())) == 6  # one for each store


def test_folds_are_calibrated_each_by_its_own_temperature(stores: Path, tmp_path: Path) -> None:
    settings = Settings(head="linear", c=10.0, validation=0.3, batch_size=16, device="cpu")
    options = {"encoder": "random", "backbone": "resnet18", "settings": settings}
    classify(stores / "train", out=tmp_path / "a", folds=2, **options)  # type: ignore[arg-type]
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())["folds"]
    assert found["calibrated"]["temperature"] != 1 and found["calibrated"]["loss"] != found["loss"]
    collection = open_collection(stores / "train")
    logits = np.random.default_rng(0).normal(size=(len(collection), 3))
    temperature = np.where(np.arange(len(collection)) < 40, 0.5, 4.0)
    judged = evaluate(logits, label_patches(collection), temperature=temperature)
    expected = log_loss(collection.labels, softmax(logits / temperature[:, None], axis=1))
    assert judged["calibrated"]["loss"] == pytest.approx(expected)


def test_leaks_are_refused_by_name(stores: Path, tmp_path: Path) -> None:
    encoder = build_backbone("resnet18", init="random")
    step = LineageStep(kind="pretrain", name="breast", groups=("p5", "q"))
    card = EncoderCard(backbone="resnet18", feature_dim=512, mean=(0.5,) * 3, std=(0.5,) * 3, lineage=(step,))
    save_encoder(encoder, tmp_path / "e.safetensors", card)
    common = {"out": tmp_path / "r", "settings": Settings(head="linear", device="cpu")}
    with pytest.raises(UsageError, match=r"pretrained on 1 group\(s\) of the test data \(p5\)"):
        classify(stores / "train", test=stores / "test", encoder=tmp_path / "e.safetensors", **common)
    with pytest.raises(UsageError, match=r"in both the training and the test data \(p4, p5\)"):
        classify(
            [stores / "train", stores / "test"],
            test=stores / "test",
            encoder="random",
            backbone="resnet18",
            **common,
        )
    assert not (tmp_path / "r").exists()
    heard = Heard()
    result = classify(
        stores / "train",
        test=stores / "test",
        encoder=tmp_path / "e.safetensors",
        allow_transductive=True,
        reporter=heard,
        **common,
    )
    assert result.metrics["transductive_groups"] == ["p5"]
    assert any(warning.startswith("Transductive") for warning in heard.warnings)


def test_the_same_tissue_under_another_name_is_reported(stores: Path, tmp_path: Path) -> None:
    labelled_store(tmp_path / "again.h5", seed=0)  # the pictures of the training patient p0
    heard = Heard()
    result = classify(
        stores / "train",
        test=tmp_path / "again.h5",
        out=tmp_path / "r",
        encoder="random",
        backbone="resnet18",
        settings=Settings(head="linear", device="cpu"),
        reporter=heard,
    )
    assert result.metrics["near_duplicates_in_test"] >= 16
    assert any("look like training patches" in warning for warning in heard.warnings)


def test_what_cannot_work_fails_before_anything_is_written(
    stores: Path, tmp_path: Path, finished: Path
) -> None:
    common = {"encoder": "random", "backbone": "resnet18"}
    with pytest.raises(LabelError, match="leaves no sample of class"):
        classify(stores / "train", out=tmp_path / "r", fraction=0.01, **common)
    with pytest.raises(UsageError, match="holds a finished run with other choices"):
        classify(stores / "train", out=finished, **common)
    with pytest.raises(UsageError, match="either --test or --folds"):
        classify(stores / "train", out=tmp_path / "r", test=stores / "test", folds=2, **common)
    with pytest.raises(UsageError, match="between 2 and the number of groups, 4; got 9"):
        # were anything computed before, the encoder of this name would be missed first
        classify(stores / "train", out=tmp_path / "r", folds=9, encoder=tmp_path / "none.safetensors")
    labelled_store(tmp_path / "other.h5", classes=("plain", "ghost"))
    with pytest.raises(LabelError, match="Unknown class ghost"):
        classify(stores / "train", out=tmp_path / "r", test=tmp_path / "other.h5", **common)
    assert not (tmp_path / "r").exists()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    monkeypatch.delattr(ClassificationTask, "fit")


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_is_kept_if_it_is_this_one(stores: Path, finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "r"))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    options = {"encoder": "random", "backbone": "resnet18", "fraction": 0.5, "test": stores / "test"}
    settings = replace(QUICK, device="auto")  # which changes nothing

    def again(**changes: Any) -> ClassifyResult:
        return classify(
            stores / "train", out=out, resume="auto", **{**options, "settings": settings, **changes}
        )

    kept = again()
    assert (
        kept.judged_on == "test"
        and kept.scores["patches"] == 48
        and kept.trained_on + kept.validated_on == 48
    )
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    for changes, sentence in (
        ({"fraction": 1.0}, r"fraction was 0\.5 and is 1\.0"),
        ({"settings": replace(QUICK, lr=1e-4)}, r"lr was 0\.001 and is 0\.0001"),
        ({"seed": 1}, r"the encoder changed; seed was 0 and is 1"),
        ({"test": (), "folds": 3}, r"the stores or labels changed; folds was None and is 3"),
    ):
        with pytest.raises(UsageError, match=sentence):
            again(**changes)
    with pytest.raises(UsageError, match="give one of them"):
        again(overwrite=True)
    (out / "metrics.json").write_text("{}")
    with pytest.raises(UsageError, match=r"metrics\.json' is damaged"):
        again()
    (out / "run.json").write_text('{"command": "pretrain"}')
    with pytest.raises(UsageError, match="holds a run of pretrain"):
        again()


@pytest.mark.parametrize("judged_on", ["test", "folds"])
def test_a_run_of_an_earlier_build_gets_intervals_of_its_predictions(tmp_path: Path, judged_on: str) -> None:
    for number in range(8):
        # Two to train on, six to be judged; a class that a spreadsheet would take for a formula.
        part = tmp_path / ("train" if number < 2 else "judged") / f"p{number}.h5"
        labelled_store(part, seed=number, classes=("=plain", "dotted"))
    train, changes = tmp_path / "train", {"test": tmp_path / "judged"}
    if judged_on == "folds":
        train, changes = tmp_path / "judged", {"folds": 2}
    heard, out = Heard(), tmp_path / "r"
    options = {"encoder": "random", "backbone": "resnet18", "out": out, "reporter": heard, **changes}
    options["settings"] = replace(QUICK, head="knn", neighbours=3)
    new = classify(train, **options)
    assert new.judged_on == judged_on and new.scores["intervals"]["loss"] is not None
    metrics = json.loads((out / "metrics.json").read_text())
    for name in ("no_interval", "ece_corrected"):
        del metrics[judged_on][name]
    metrics[judged_on]["intervals"] = {name: [0.1, 0.2] for name in new.scores["intervals"]}
    (out / "metrics.json").write_text(json.dumps(metrics))
    kept = classify(train, resume="auto", **options)
    assert kept.scores["no_interval"] == new.scores["no_interval"]
    for name, interval in new.scores["intervals"].items():
        # The file has six digits of each probability.
        assert kept.scores["intervals"][name] == (interval and pytest.approx(interval, abs=1e-4))
    (out / "predictions.csv").unlink()
    kept = classify(train, resume="auto", **options)
    assert kept.scores["intervals"]["loss"] == [0.1, 0.2]
    assert "of an earlier build and too narrow" in heard.warnings[-1]


@pytest.mark.usefixtures("no_training")
def test_where_no_run_is_finished_resume_starts_one(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="fit"):  # it has come as far as training
        classify(stores / "train", out=tmp_path / "r", encoder="random", backbone="resnet18", resume="auto")


def test_out_is_tried_before_anything_is_computed(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    common = {"encoder": "random", "backbone": "resnet18"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ClassificationTask, "fit")
        with pytest.raises(UsageError, match=r"Nothing can be written to .*below"):
            classify(stores / "train", out=tmp_path / "file" / "below", **common)
        with pytest.raises(UsageError, match=r"Nothing can be written to .*file"):
            classify(stores / "train", out=tmp_path / "r", cache=tmp_path / "file", **common)


def test_two_runs_into_one_folder_are_kept_apart(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    with locked(out / "run.json", what="o"), pytest.raises(StoreError, match="is being written by process"):
        classify(stores / "train", out=out, encoder="random", backbone="resnet18", settings=QUICK)
    assert not [path for path in out.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("folds", [None, 2])
def test_majority_and_color_stand_beside_the_classifier(
    stores: Path, tmp_path: Path, folds: int | None
) -> None:
    judged = {"folds": folds} if folds else {"test": stores / "test"}
    result = classify(
        stores / "train",
        out=tmp_path / "r",
        encoder="random",
        backbone="resnet18",
        settings=Settings(head="linear", c=1e-6, device="cpu"),  # which says next to nothing
        **judged,  # type: ignore[arg-type]
    )
    beside = json.loads((tmp_path / "r" / "metrics.json").read_text())["baselines"]
    assert beside["majority"] == {"class": "plain", "accuracy": pytest.approx(1 / 3)}
    assert beside["color"]["accuracy"] == 1 and not beside["color"]["beaten"]
    assert "it has learned color" in beside["sentence"]
    # Of two patients nothing can be told from guessing, and that is said instead.
    assert (beside["sentence"] in result.said_first) == (folds is not None)
    if folds:
        assert len(result.metrics["per_fold_auroc"]) == folds
