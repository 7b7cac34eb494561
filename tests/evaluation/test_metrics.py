"""Metrics against scikit-learn and torchmetrics, which compute them another way."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassCalibrationError

from wsitool.evaluation.metrics import (
    CURVES,
    METRICS,
    Predictions,
    confusion_matrix,
    metric_named,
    score,
)


def _predictions(classes: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 400)
    logits = rng.normal(size=(400, classes)) + 1.2 * np.eye(classes)[labels]
    if ties:
        logits = np.round(logits)
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_equal_scikit_learn(classes: int, ties: bool) -> None:
    p, y = _predictions(classes, ties)
    found, called = score(p, y), p.argmax(axis=1)
    auroc = sk.roc_auc_score(y, p[:, 1]) if classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr")
    expected = {
        "loss": sk.log_loss(y, p),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "macro_f1": sk.f1_score(y, called, average="macro"),
        "auroc": auroc,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert (confusion_matrix(y, called, classes) == sk.confusion_matrix(y, called)).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_without_each_patient_scikit_learn_says_the_same(classes: int, ties: bool) -> None:
    p, y = _predictions(classes, ties)
    groups = np.random.default_rng(5).choice([3, 7, 8, 20, 21], len(y), p=[0.5, 0.2, 0.2, 0.05, 0.05])
    predictions = Predictions.of(p, y, groups)
    for row, patient in enumerate([None, 3, 7, 8, 20, 21]):
        rest = groups != patient
        called = p[rest].argmax(axis=1)
        scores = p[rest, 1] if classes == 2 else p[rest]
        peer = MulticlassCalibrationError(classes, n_bins=15)
        expected = {
            "accuracy": sk.accuracy_score(y[rest], called),
            "balanced_accuracy": sk.balanced_accuracy_score(y[rest], called),
            "macro_f1": sk.f1_score(y[rest], called, average="macro"),
            "auroc": sk.roc_auc_score(y[rest], scores, multi_class="ovr"),
            "loss": sk.log_loss(y[rest], p[rest]),
            "ece": float(peer(torch.from_numpy(p[rest]), torch.from_numpy(y[rest]))),
        }
        left_out = {name: metric_named(name).compute(predictions)[row] for name in METRICS}
        assert left_out == pytest.approx(expected, abs=1e-6)


def _cost(monkeypatch: pytest.MonkeyPatch, patients: int, patches: int) -> tuple[int, int]:
    """How many numbers all six figures sort, and the most bytes they hold at once."""
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(2), patches), rng.integers(0, 2, patches)
    predictions = Predictions.of(p, y, rng.integers(0, patients, patches))
    sizes: list[int] = []
    argsort = np.argsort

    def counted(values: np.ndarray, **options: str) -> np.ndarray:
        sizes.append(len(values))
        return argsort(values, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "argsort", counted)
        tracemalloc.start()
        for name in METRICS:
            metric_named(name).compute(predictions)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return sum(sizes), peak


def test_leaving_out_patients_costs_no_more_with_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = 20_000
    few, many = (_cost(monkeypatch, patients, patches) for patients in (5, 2000))
    # Two sorts: by score and then by patient. A matrix of patients and patches would be 320 MB.
    assert few[0] == many[0] == 2 * patches
    assert many[1] < 30 * 8 * patches


def test_calibration_error_equals_torchmetrics() -> None:
    p, y = _predictions(4, ties=False)
    peer = MulticlassCalibrationError(4, n_bins=15)(torch.from_numpy(p), torch.from_numpy(y))
    assert score(p, y)["ece"] == pytest.approx(float(peer), abs=1e-6)


def test_what_one_class_cannot_define_is_none() -> None:
    found = score(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert found["auroc"] is None and found["balanced_accuracy"] == 0.5


def test_every_metric_has_one_place_and_a_row_for_each_patient() -> None:
    p, y = _predictions(3, ties=False)
    assert tuple(score(p, y)) == METRICS and set(CURVES) <= set(METRICS)
    predictions = Predictions.of(p, y, np.arange(len(y)) % 7)
    assert all(metric_named(name).compute(predictions).shape == (8,) for name in METRICS)
