"""Metrics against scikit-learn and torchmetrics, which compute them another way."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassCalibrationError

from wsitool.evaluation.metrics import CURVES, METRICS, confusion_matrix, score, weighted_scores


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


def test_weights_count_patches_as_scikit_learn_does() -> None:
    p, y = _predictions(3, ties=False)
    w = np.random.default_rng(5).integers(0, 4, len(y)).astype(float)
    found, called = weighted_scores(p, y, w[None]), p.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(y, called, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called, sample_weight=w),
        "macro_f1": sk.f1_score(y, called, average="macro", sample_weight=w),
        "auroc": sk.roc_auc_score(y, p, multi_class="ovr", sample_weight=w),
        "loss": sk.log_loss(y, p, sample_weight=w),
    }
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_calibration_error_equals_torchmetrics() -> None:
    p, y = _predictions(4, ties=False)
    peer = MulticlassCalibrationError(4, n_bins=15)(torch.from_numpy(p), torch.from_numpy(y))
    assert score(p, y)["ece"] == pytest.approx(float(peer), abs=1e-6)


def test_what_one_class_cannot_define_is_none() -> None:
    found = score(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert found["auroc"] is None and found["balanced_accuracy"] == 0.5


def test_every_metric_of_the_table_is_computed_and_has_one_place() -> None:
    p, y = _predictions(3, ties=False)
    assert tuple(weighted_scores(p, y, np.ones((2, len(y))))) == METRICS and set(CURVES) <= set(METRICS)
    assert all(values.shape == (2,) for values in weighted_scores(p, y, np.ones((2, len(y)))).values())
