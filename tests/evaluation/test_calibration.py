import numpy as np
import pytest

from wsitool.evaluation.calibration import fit_temperature, softmax


def test_temperature_that_was_applied_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    cumulative = softmax(logits).cumsum(axis=1)
    labels = (rng.random((20_000, 1)) > cumulative).sum(axis=1)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1000.0, 999.0]]))[0] == pytest.approx([0.7310586, 0.2689414])
