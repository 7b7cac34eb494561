"""What is learned: against scikit-learn and the project's own head; figures and the curve's estimate."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from wsitool.labelling.database import Point
from wsitool.labelling.learning_curve import expected_gain
from wsitool.labelling.probe import Judgement, cross_validated, fit_probe
from wsitool.store.splits import whole_folds


def _case(count: int = 300, patients: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    features = (rng.normal(size=(count, 10)) + 1.5 * np.eye(3, 10)[labels]).astype(np.float32)
    return features, labels, rng.integers(0, patients, count)


def test_the_probe_weights_classes_alike() -> None:
    features, labels, _ = _case()
    probe = fit_probe(features, labels + 4)  # classes of which no label was given have no place in it
    assert probe is not None and probe.classes.tolist() == [4, 5, 6]
    standard = (features - features.mean(0)) / features.std(0)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000).fit(standard, labels)
    expected = model.decision_function(standard)
    logits = features @ probe.weight.T + probe.bias
    assert np.allclose(
        logits - logits.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=2e-3
    )
    p = np.sort(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)
    assert np.allclose(probe.margins(features), p[:, -1] - p[:, -2], atol=1e-5)
    assert fit_probe(features, np.zeros(len(features), np.int64)) is None


def test_no_patient_is_judged_by_what_it_trained() -> None:
    features, labels, groups = _case()
    judged = np.arange(len(labels)) % 2 == 0
    judgement = cross_validated(features, labels, groups, judged=judged, seed=0)
    folds = whole_folds(labels, groups, classes=3, seed=0)
    assert folds is not None and all(len(np.unique(folds[groups == group])) == 1 for group in range(12))
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        probe = fit_probe(features[folds != fold], labels[folds != fold])
        assert probe is not None
        predicted[folds == fold] = (features[folds == fold] @ probe.weight.T + probe.bias).argmax(1)
    assert isinstance(judgement, Judgement) and judgement.patches == judged.sum()
    assert judgement.value == pytest.approx(balanced_accuracy_score(labels[judged], predicted[judged]))
    assert judgement.low is not None and judgement.high is not None
    assert judgement.low < judgement.value < judgement.high and judgement.patients == 12


def test_too_few_patients_have_a_value_and_no_interval() -> None:
    features, labels, groups = _case(patients=4)
    everything = np.ones(len(labels), bool)
    judgement = cross_validated(features, labels, groups, judged=everything, seed=0)
    assert isinstance(judgement, Judgement) and judgement.low is None
    assert judgement.reason.startswith("too few patients: 4")
    assert "at least two patients" in str(
        cross_validated(features, labels, 0 * groups, judged=everything, seed=0)
    )
    assert "two classes" in str(cross_validated(features, 0 * labels, groups, judged=everything, seed=0))
    assert "by chance" in str(cross_validated(features, labels, groups, judged=~everything, seed=0))


def _points(*pairs: tuple[int, float]) -> list[Point]:
    return [Point(labels=n, value=value, low=None, high=None, patients=9) for n, value in pairs]


def test_the_expected_gain_follows_the_curve() -> None:
    counts = (20, 40, 60, 80)
    curve = _points(*((n, 0.9 - 1.2 / np.sqrt(n)) for n in counts))
    assert expected_gain(curve, 80) == pytest.approx(1.2 / np.sqrt(80) - 1.2 / np.sqrt(100))
    assert expected_gain(curve[:3], 80) is None  # three points are no curve
    assert expected_gain(_points(*((n, 0.9 - 0.001 * n) for n in counts)), 80) == 0  # it falls
    assert (
        expected_gain(_points((5, 0.1), (10, 0.5), (20, 0.9), (40, 1.0)), 40) == 0
    )  # no higher than all right
