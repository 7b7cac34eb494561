"""Kappa against scikit-learn's, and Fleiss' own example."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from wsitool.evaluation.agreement import cohen_kappa, fleiss_kappa


@pytest.mark.parametrize("seed", range(5))
def test_cohens_kappa_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.choice(3, 80, p=[0.6, 0.3, 0.1])
    b = np.where(rng.random(80) < 0.6, a, rng.integers(0, 3, 80))
    assert cohen_kappa(a, b, 3) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_fleiss_kappa_of_a_published_table() -> None:
    """Ten things, fourteen people, five classes: the table of Wikipedia's article, kappa 0.210."""
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    labels = np.array([np.repeat(np.arange(5), row) for row in counts])
    assert fleiss_kappa(labels, 5) == pytest.approx(0.210, abs=5e-4)


def test_two_people_with_the_same_shares_have_one_kappa_by_both() -> None:
    a, b = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    assert fleiss_kappa(np.stack([a, b], axis=1), 3) == pytest.approx(cohen_kappa_score(a, b))


def test_nothing_beyond_chance_can_be_said() -> None:
    zeros = np.zeros(4, np.int64)
    assert cohen_kappa(zeros, zeros, 2) is None and fleiss_kappa(np.zeros((4, 2), np.int64), 2) is None
    assert cohen_kappa(zeros[:0], zeros[:0], 2) is None and fleiss_kappa(zeros[:, None], 2) is None
