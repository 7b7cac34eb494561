"""Experiments whose labels are of slides and patients: the cells of `classify`, compared as patches are."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from feature_bags import feature_folder, write_features
from sklearn.linear_model import LogisticRegression

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import LineageStep, read_card
from wsitool.backbones.files import encoder_file, save_encoder
from wsitool.cli import main
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.evaluation.calibration import softmax
from wsitool.experiment.cells import CellResult
from wsitool.experiment.estimate import estimate
from wsitool.experiment.evaluation_splits import all_cells, labelled_rows, open_splits
from wsitool.experiment.judged import read_cell
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.results import summarise
from wsitool.experiment.run import experiment
from wsitool.mil import making
from wsitool.mil.options import SlideSettings
from wsitool.mil.run import classify_slides
from wsitool.predict.embedding import embed

QUICK: dict[str, Any] = {"epochs": 4, "bags_per_step": 2, "head_lr": 0.05, "attention_dim": 4}

CPU = ExperimentDevice(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features and slides.csv of twelve slides of six patients; wide: the same slides, of another encoder."""
    folder = tmp_path_factory.mktemp("slides")
    features = feature_folder(folder)
    for path in features.glob("*.h5"):
        with h5py.File(path) as file:
            rows = file["features"][:]
        noise = np.random.default_rng(int(path.stem[1:])).normal(size=(len(rows), 3))
        write_features(folder / "wide" / path.name, np.concatenate([rows / 9, noise], 1).astype(np.float32))
    return folder


def _plan(folder: Path, **changes: Any) -> ExperimentPlan:
    values: dict[str, Any] = {
        "train": (str(folder / "features"),),
        "labels": str(folder / "slides.csv"),
        "level": "slide",
        "heads": ("mean", "attention"),
        "methods": (f"features:{folder / 'features'}", f"features:{folder / 'wide'}"),
        "labels_per_class": (2,),
        "fractions": (1.0,),
        "seeds": 2,
        "folds": 2,
        "seed": 1,
        **QUICK,
        **changes,
    }
    return ExperimentPlan(**values)


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    experiment(_plan(folder), folder / "out", where=CPU)
    return folder / "out"


@pytest.mark.parametrize("head", ["mean", "attention"])
def test_a_cell_is_a_run_of_classify(folder: Path, finished: Path, tmp_path: Path, head: str) -> None:
    """Of the same labels, folds and seed: the same figures to the last digit, the same probabilities."""
    settings = SlideSettings(level="slide", head=head, device="cpu", **QUICK)
    one = classify_slides(
        folder / "wide",
        out=tmp_path / "run",
        settings=settings,
        labels=folder / "slides.csv",
        folds=2,
        labels_per_class=2,
        seed=1,
    )
    rows = json.loads((finished / "results.json").read_text())["rows"]
    (row,) = (each for each in rows if each["arm"].endswith(f"wide ({head})") and each["fraction"] is None)
    figures = row["per_seed"][1]
    assert row["labelled_slides"] == 4
    assert all(figures[name] == one.scores[name] for name in ("accuracy", "auroc", "loss", "ece"))
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        said = {line["slide"]: float(line["p_a"]) for line in csv.DictReader(file) if "fold" in line["part"]}
    plan = _plan(folder)
    arm = next(arm for arm in plan.arms if arm.name.endswith("wide") and arm.head == head)
    for number, split in enumerate(open_splits(plan)):
        cell = next(cell for cell in all_cells(plan) if (cell.arm, cell.seed, cell.split) == (arm, 1, number))
        read = read_cell(finished / "cells" / cell.file_names(plan)[0])
        assert read is not None
        names = split.test.bags.subset(split.test.rows).images.tolist()
        assert softmax(read[0])[:, 0] == pytest.approx([said[name] for name in names], abs=6e-7)


def test_the_mean_is_scikit_learns_regression_on_mean_features(folder: Path, tmp_path: Path) -> None:
    plan = _plan(folder, heads=("mean",), c=0.5, labels_per_class=(1,), seeds=1)
    experiment(plan, tmp_path / "out", where=CPU, page=False)
    names = {number: f"s{number}" for number in range(12)}
    means = {}
    for name in names.values():
        with h5py.File(folder / "features" / f"{name}.h5") as file:
            means[name] = file["features"][:].astype(np.float64).mean(0)
    for cell in all_cells(plan):
        if not cell.arm.name.endswith("features"):
            continue
        split = open_splits(plan)[cell.split]
        bags = split.train.bags
        rows = split.train.rows[labelled_rows(plan, split, cell)]
        x = np.stack([means[bags.bags[row].name] for row in rows])
        center, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1
        peer = LogisticRegression(C=0.5, class_weight="balanced", tol=1e-8, max_iter=10_000)
        peer.fit((x - center) / scale, bags.labels[rows])
        # Weighted alike in the fit, as frequent as among the labels in what is said.
        share = np.bincount(bags.labels[rows]) / len(rows)
        peer.intercept_ += np.log(share[1] / share[0])
        tests = np.stack([means[bags.bags[row].name] for row in split.test.rows])
        read = read_cell(tmp_path / "out" / "cells" / cell.file_names(plan)[0])
        assert read is not None
        expected = peer.predict_proba((tests - center) / scale)
        assert softmax(read[0]) == pytest.approx(expected, abs=2e-3)


def test_every_arm_has_the_same_slides_and_the_report_speaks_of_them(folder: Path, finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert len({row["arm"] for row in results["rows"]}) == 4 and results["test_slides"] == 12
    assert results["baseline"].endswith("features (mean)") and results["color_baseline"] == []
    compared = [row["against_baseline_at_same_fraction"] for row in results["rows"]]
    assert sum(each is None for each in compared) == 2  # the baseline's own
    manifest = json.loads((finished / "manifest.json").read_text())
    assert {subset["slides"] for subset in manifest["subsets"]} == {4, 6}
    for part, test in manifest["tests"].items():
        outside = {bag["group"] for bag in test["bags"]}
        inside = [s["groups"] for s in manifest["subsets"] if s["round"] == part]
        assert inside and not outside & {group for groups in inside for group in groups}
    facts = [read_cell(path) for path in (finished / "cells").iterdir()]
    # Four arms in each subset of labels.
    subsets = [each[1]["subset"] for each in facts if each is not None]
    assert all(subsets.count(one) % 4 == 0 for one in subsets)
    page = (finished / "report.html").read_text()
    assert "judged on 12 slides" in page and "Slide accuracy in percent" in page
    assert "paired on the same slides" in page and "same patches" not in page
    table = (finished / "table2.md").read_text()
    assert "2 per class (4 slides)" in table and "(attention)" in table
    assert (finished / "test_slides.csv").read_text().count("\n") == 13


def test_a_kill_changes_nothing(folder: Path, tmp_path: Path) -> None:
    out, finished, plan = tmp_path / "out", tmp_path / "finished", tmp_path / "plan.json"
    arms = (f"features:{folder / 'wide'}",)
    small = _plan(folder, methods=arms, heads=("attention",), validation=0.0, epochs=2, fractions=(1.0,))
    plan.write_text(json.dumps(small.to_dict()))
    experiment(small, finished, where=CPU)
    words = [sys.executable, "-m", "wsitool", "experiment", "--plan", plan, "--out", out, "--device", "cpu"]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("cells/*.npz"))) < 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("cells/*.npz")}
    assert 3 <= len(before) < 8 and not (out / "results.json").exists()
    again = experiment(read_plan(plan), out, where=CPU)
    assert again.reused >= len(before) - 1
    for name in ("results.json", "table2.csv", "manifest.json", "test_slides.csv", "cells.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_stores_have_their_features_made_once_for_all_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["file,label"]
    for number in range(6):
        labelled_store(tmp_path / "train" / f"p{number}.h5", per_class=3, seed=number)
        lines.append(f"p{number},{'ab'[number % 2]}")
    (tmp_path / "slides.csv").write_text("\n".join(lines))
    made: list[str] = []
    plain = making.encode
    monkeypatch.setattr(
        making, "encode", lambda *a, **k: (made.append(a[1].stores[0].meta.name), plain(*a, **k))[1]
    )
    plan = ExperimentPlan(
        train=(str(tmp_path / "train"),),
        labels=str(tmp_path / "slides.csv"),
        level="slide",
        heads=("mean", "attention"),
        methods=("supervised", f"features:{tmp_path / 'embedded'}"),
        fractions=(1.0,),
        seeds=1,
        folds=2,
        c=0.1,
        backbone="resnet18",
        init="random",
        image_size=32,
        validation=0.0,
        **QUICK,
    )
    how = {"backbone": "resnet18", "image_size": 32, "device": "cpu"}
    embed(tmp_path / "train", encoder="random", out=tmp_path / "embedded", **how)
    assert estimate(plan, tmp_path / "out", devices=("cpu",)).cells == 8
    result = experiment(plan, tmp_path / "out", where=CPU)
    assert sorted(made) == [f"p{number}" for number in range(6)]
    assert result.results.color
    settings = SlideSettings(level="slide", head="attention", device="cpu", validation=0.0, **QUICK)
    one = classify_slides(
        tmp_path / "train",
        out=tmp_path / "run",
        settings=settings,
        labels=tmp_path / "slides.csv",
        folds=2,
        encoder="random",
        backbone="resnet18",
        image_size=32,
    )
    row = next(row for key, row in result.results.arms.items() if key[0] == "supervised (attention)")
    assert row.mean["loss"] == pytest.approx(one.scores["loss"], abs=0)
    # The same features in files, joined by the images' names.
    for (name, amount), figures in result.results.arms.items():
        if name.startswith("supervised"):
            other = f"features:{tmp_path / 'embedded'} {name.removeprefix('supervised ')}"
            assert figures.mean["loss"] == pytest.approx(
                result.results.arms[other, amount].mean["loss"], abs=1e-4
            )
    color = next(iter(result.results.color.values()))
    assert color.mean["loss"] == one.metrics["baselines"]["color"]["loss"]


def test_an_encoder_that_saw_test_patients_is_refused_before_anything(tmp_path: Path) -> None:
    for number in range(4):
        classes = (("plain", "dotted")[number % 2],)
        labelled_store(tmp_path / "train" / f"p{number}.h5", per_class=2, seed=number, classes=classes)
    built = build_backbone("resnet18", init="random", seed=5)
    step = LineageStep(kind="pretrain", name="leaky", groups=("p0",))
    save_encoder(built, tmp_path / "leaky.safetensors", dataclasses.replace(built.card, lineage=(step,)))
    plan = ExperimentPlan(
        train=(str(tmp_path / "train"),),
        level="slide",
        methods=(f"encoder:{tmp_path / 'leaky.safetensors'}",),
        fractions=(1.0,),
        seeds=1,
        folds=2,
        c=0.1,
        image_size=32,
    )
    with pytest.raises(UsageError, match="p0"):
        experiment(plan, tmp_path / "out", where=CPU)
    assert not (tmp_path / "out").exists()
    allowed = experiment(
        dataclasses.replace(plan, allow_transductive=True), tmp_path / "out", where=CPU, page=False
    )
    notes = json.loads((tmp_path / "out" / "results.json").read_text())["notes"]
    assert allowed.cells == 2 and any("Transductive" in note for note in notes)


def test_a_pretrained_arm_sees_no_patch_of_the_slides_it_is_judged_on(tmp_path: Path) -> None:
    for number in range(4):
        classes = (("plain", "dotted")[number % 2],)
        labelled_store(tmp_path / "train" / f"p{number}.h5", per_class=4, seed=number, classes=classes)
    plan = ExperimentPlan(
        train=(str(tmp_path / "train"),),
        level="slide",
        methods=("rotation",),
        heads=("mean",),
        fractions=(1.0,),
        seeds=1,
        folds=2,
        c=0.1,
        backbone="resnet18",
        init="random",
        image_size=32,
        pretrain_epochs=1,
        pretrain_batch_size=8,
    )
    experiment(plan, tmp_path / "out", where=CPU, page=False)
    for split in open_splits(plan):
        card = read_card(encoder_file(tmp_path / "out" / "pretrain" / f"rotation-{split.name}-seed0"))
        assert card is not None
        groups = set(card.groups)
        assert groups == set(split.train.patches.groups) and not groups & set(split.test.patches.groups)


def test_patients_are_bags_of_all_their_slides(folder: Path, tmp_path: Path) -> None:
    of_patients = {"level": "patient", "heads": ("mean",), "c": 0.1, "labels_per_class": (), "seeds": 1}
    plan = _plan(folder, **of_patients)
    result = experiment(plan, tmp_path / "out", where=CPU, page=False)
    assert len(result.results.labels) == 6
    assert "100 % (3 patients)" in (tmp_path / "out" / "table2.md").read_text()
    # A slide that an arm lacks would make the bag another one.
    (tmp_path / "less").mkdir()
    for path in (folder / "wide").iterdir():
        if path.stem != "s3":
            (tmp_path / "less" / path.name).write_bytes(path.read_bytes())
    lacking = _plan(folder, **of_patients, methods=(f"features:{tmp_path / 'less'}",))
    with pytest.raises(StoreError, match=r"no features of 1 of the labelled slides \(s3\)"):
        experiment(lacking, tmp_path / "lacking", where=CPU)
    assert not (tmp_path / "lacking").exists()


def test_what_cannot_be_is_said_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--train holds features: name arms of features"):
        experiment(_plan(folder, methods=("supervised",)), tmp_path / "out", where=CPU)
    with pytest.raises(LabelError, match=r"a single slide of a.*--c 1 for head mean"):
        experiment(_plan(folder, labels_per_class=(1,)), tmp_path / "out", where=CPU)
    with pytest.raises(LabelError, match="9 labels of each class were asked for"):
        experiment(_plan(folder, labels_per_class=(9,)), tmp_path / "out", where=CPU)
    for words, message in (
        ({"head": "finetune"}, "named by --heads"),
        ({"select": ("margin",)}, "asks for patches"),
        ({"split": "patch"}, "leave out --split patch"),
        ({"heads": ("mean", "mean")}, "each head once"),
        ({"level": "patch"}, "give --level slide or patient"),
    ):
        with pytest.raises(UsageError, match=message):
            _plan(folder, **words)
    assert not (tmp_path / "out").exists()


def test_cells_of_other_labels_are_not_compared(folder: Path, finished: Path) -> None:
    plan = _plan(folder)
    cells = {}
    for cell in all_cells(plan):
        read = read_cell(finished / "cells" / cell.file_names(plan)[0])
        assert read is not None
        cells[cell] = CellResult(logits=read[0], facts=read[1], reused=True)
    summarise(plan, open_splits(plan), cells)
    last = list(cells)[-1]
    cells[last].facts["subset"] = "another"
    with pytest.raises(UsageError, match="not of the same labels in every arm"):
        summarise(plan, open_splits(plan), cells)


def test_the_command_takes_lists_and_says_what_it_would_do(folder: Path, tmp_path: Path) -> None:
    words = [
        "experiment",
        "--train",
        folder / "features",
        "--labels",
        folder / "slides.csv",
        "--level",
        "slide",
    ]
    words += ["--heads", "mean,attention", "--methods", f"features:{folder / 'wide'}", "--folds", "2"]
    words += ["--labels-per-class", "2", "--fractions", "100", "--seeds", "1", "--epochs", "2", "--dry-run"]
    done = CliRunner().invoke(main, [*map(str, words), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "8 cells, 0 of them there already" in done.output and not (tmp_path / "out").exists()
