import copy
import pickle

import numpy as np
import pytest

from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.amounts import PerClass
from wsitool.evaluation.subsets import class_counts, label_subset, patients_in_turn

CLASSES = ("benign", "adh", "dcis")


def _labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2, -1], [120, 101, 250, 30]))


AMOUNTS = {
    "subset": ((0.05, [5, 5, 5]), (0.25, [25, 25, 25]), (0.5, [50, 50, 50]), (1.0, [101, 101, 101])),
    "weighted": ((0.05, [6, 5, 13]), (0.25, [30, 25, 63]), (0.5, [60, 51, 125]), (1.0, [120, 101, 250])),
}


@pytest.mark.parametrize("balance", ["subset", "weighted"])
@pytest.mark.parametrize("spread", [False, True])
def test_subsets_have_their_counts_and_are_nested(balance: str, spread: bool) -> None:
    labels = _labels()
    groups = np.random.default_rng(1).integers(0, 9, len(labels)) if spread else None
    inner: set[int] = set()
    amounts = [(PerClass(2), [2, 2, 2]), (PerClass(4), [4, 4, 4]), *AMOUNTS[balance]]
    for amount, counts in amounts:
        rows = label_subset(labels, amount, CLASSES, seed=3, balance=balance, groups=groups)
        assert np.bincount(labels[rows]).tolist() == counts
        assert inner < set(rows.tolist())
        inner = set(rows.tolist())


def test_all_labels_are_all_labels() -> None:
    labels = _labels()
    assert label_subset(labels, 1.0, CLASSES, seed=0).tolist() == np.flatnonzero(labels >= 0).tolist()


def test_patients_come_in_turn() -> None:
    groups = np.array([7, 7, 7, 7, 7, 2, 2, 4])
    assert groups[patients_in_turn(groups)].tolist() == [7, 2, 4, 7, 2, 7, 7, 7]
    labels, groups = np.zeros(60, int), np.repeat(np.arange(12), 5)
    spread = label_subset(labels, 0.2, ("a",), seed=0, groups=groups)
    assert len(np.unique(groups[spread])) == 12
    assert len(np.unique(groups[label_subset(labels, 0.2, ("a",), seed=0)])) < 12


def test_numbers_of_each_class_are_amounts_below_every_share() -> None:
    assert sorted([0.001, PerClass(20), 1.0, PerClass(5)]) == [PerClass(5), PerClass(20), 0.001, 1.0]
    for same in (pickle.loads(pickle.dumps(PerClass(5))), copy.deepcopy(PerClass(5))):  # noqa: S301
        assert same == PerClass(5) and same.count == 5
    with pytest.raises(LabelError, match="12 labels of each class were asked for, and adh has 10 patches"):
        class_counts(np.repeat([0, 1, 2], [90, 10, 40]), PerClass(12), CLASSES)


def test_subset_depends_on_the_seed_only() -> None:
    labels = _labels()
    first, again, other = (label_subset(labels, 0.25, CLASSES, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_floor_is_not_fooled_by_binary_fractions() -> None:
    # 0.29 * 100 == 28.999999999999996, 0.145 * 100 == 14.499999999999998
    assert class_counts(np.zeros(100, int), 0.29, ("a",), balance="subset").tolist() == [29]
    assert class_counts(np.zeros(100, int), 0.145, ("a",)).tolist() == [15]


def test_a_class_left_empty_is_named() -> None:
    labels = np.repeat([0, 1, 2], [90, 10, 40])
    with pytest.raises(LabelError, match=r"no sample of class adh, which has 10 patches.*at least 0\.1"):
        label_subset(labels, 0.05, CLASSES, seed=0, balance="subset")
    with pytest.raises(LabelError, match=r"no sample of class adh.*at least 0\.05"):
        label_subset(labels, 0.04, CLASSES, seed=0)
    with pytest.raises(LabelError, match="none of adh"):
        label_subset(np.repeat([0, 2], 9), 1.0, CLASSES, seed=0)
    with pytest.raises(UsageError, match=r"above 0 and at most 1, got 1\.5"):
        label_subset(_labels(), 1.5, CLASSES, seed=0)
