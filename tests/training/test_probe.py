from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from classify_stores import labelled_store
from patch_stores import patch_folder
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from wsitool.errors import UsageError
from wsitool.store.collection import open_collection
from wsitool.training.probe import knn_accuracy, linear_accuracy, split_groups
from wsitool.training.run import pretrain


def _clouds(spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes around three directions, in four groups."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    features = np.eye(3, 8)[labels] * 3 + rng.normal(0, spread, (240, 8)) + 1
    return features.astype(np.float32), labels, np.arange(240) // 60


def test_neighbours_are_those_of_other_groups_by_cosine() -> None:
    features, labels, groups = _clouds(1.5)
    guess = np.empty_like(labels)
    for group in range(4):
        rest = groups != group

        def weigh(distance: np.ndarray) -> np.ndarray:
            return np.exp((1 - distance) / 0.07)

        model = KNeighborsClassifier(20, metric="cosine", weights=weigh).fit(features[rest], labels[rest])
        guess[~rest] = model.predict(features[~rest])
    expected = balanced_accuracy_score(labels, guess)
    assert 0.5 < expected < 1
    assert knn_accuracy(features, labels, groups) == pytest.approx(expected, abs=1e-6)


def test_a_patient_cannot_vouch_for_itself() -> None:
    """Features that tell the patient and nothing of the class: an honest probe finds nothing."""
    rng = np.random.default_rng(0)
    groups = np.arange(120) // 10
    labels = groups % 2
    features = (np.eye(12)[groups] * 10 + rng.normal(0, 0.1, (120, 12))).astype(np.float32)
    assert knn_accuracy(features, labels, groups) < 0.7
    assert linear_accuracy(features, labels, groups) < 0.7


def test_the_linear_probe_separates_what_can_be_separated() -> None:
    features, labels, groups = _clouds(0.3)
    assert linear_accuracy(features, labels, groups) == 1.0
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    assert linear_accuracy(noise, labels, groups) == pytest.approx(1 / 3, abs=0.12)


def test_held_out_patients_are_whole_and_never_trained_on(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", stores=5, each=6)
    collection = open_collection(stores)
    train, held = split_groups(collection, 0.4, seed=0)
    assert sorted([*train, *held]) == list(range(30))
    assert not set(collection.group_index[train]) & set(collection.group_index[held])
    assert len(set(collection.group_index[held])) == 2
    with pytest.raises(UsageError, match="whole patients apart and the stores hold 1"):
        split_groups(collection.subset(range(6)), 0.5, seed=0)


def test_a_run_logs_held_out_loss_and_probes(tmp_path: Path) -> None:
    folder = tmp_path / "breast"
    for index in range(4):
        labelled_store(folder / f"p{index}.h5", per_class=4, seed=index)
    options = {"backbone": "resnet18", "init": "random", "epochs": 2, "batch_size": 8}
    pretrain(folder, method="simclr", out=tmp_path / "r", holdout=0.25, probe_every=2, **options)
    with (tmp_path / "r" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["val_loss"]]
    assert [row["epoch"] for row in ends] == ["1", "2"] and len(rows) == 8
    assert all(float(row["rank_me"]) >= 1 and float(row["feature_std"]) > 0 for row in ends)
    assert [bool(row["knn_accuracy"]) for row in ends] == [False, True]
    assert 0 <= float(ends[1]["probe_accuracy"]) <= 1
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert len(facts["held_out_groups"]) == 1
    assert not set(facts["held_out_groups"]) & set(facts["groups"])
    # Looking changes nothing: without probes the steps are the same to the bit.
    pretrain(folder, method="simclr", out=tmp_path / "s", holdout=0.25, **options)
    with (tmp_path / "s" / "metrics.csv").open(newline="") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == [row["loss"] for row in rows]
    assert torch.load(tmp_path / "s" / "last.ckpt", weights_only=True)["batches"] == 8
