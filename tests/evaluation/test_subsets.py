import numpy as np
import pytest

from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.subsets import balanced_subset, per_class_count, subset_hash

CLASSES = ("benign", "adh", "dcis")


def _labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2, -1], [120, 101, 250, 30]))


def test_subsets_are_balanced_and_nested() -> None:
    labels = _labels()
    inner: set[int] = set()
    for fraction, k in ((0.05, 5), (0.25, 25), (0.5, 50), (1.0, 101)):
        chosen = balanced_subset(labels, fraction, CLASSES, seed=3)
        assert np.bincount(labels[chosen]).tolist() == [k, k, k]
        assert inner < set(chosen.tolist())
        inner = set(chosen.tolist())


def test_subset_depends_on_the_seed_only() -> None:
    labels = _labels()
    first, again, other = (balanced_subset(labels, 0.25, CLASSES, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_floor_is_not_fooled_by_binary_fractions() -> None:
    assert per_class_count(np.zeros(100, int), 0.29, ("a",)) == 29  # 0.29 * 100 == 28.999999999999996


def test_a_class_left_empty_is_named() -> None:
    with pytest.raises(LabelError, match=r"no sample of class adh, which has 10 patches.*at least 0\.1"):
        balanced_subset(np.repeat([0, 1, 2], [90, 10, 40]), 0.05, CLASSES, seed=0)
    with pytest.raises(LabelError, match="none of adh"):
        balanced_subset(np.repeat([0, 2], 9), 1.0, CLASSES, seed=0)
    with pytest.raises(UsageError, match=r"above 0 and at most 1, got 1\.5"):
        balanced_subset(_labels(), 1.5, CLASSES, seed=0)


def test_hash_ignores_order() -> None:
    assert subset_hash(["b", "a"]) == subset_hash(["a", "b"]) != subset_hash(["a", "c"])
