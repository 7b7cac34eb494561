import numpy as np
import pytest

from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.splits import group_folds, holdout


def _patients(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(20, 40, count))
    return rng.integers(0, 3, len(groups)), groups


@pytest.mark.parametrize("count", [5, 10, 40])
def test_groups_stay_whole_and_classes_in_proportion(count: int) -> None:
    labels, groups = _patients(count)
    split = holdout(labels, groups, seed=1)
    assert split.by == "group" and split.warning == ""
    assert not set(groups[split.train]) & set(groups[split.held_out])
    assert sorted([*split.train, *split.held_out]) == list(range(len(labels)))
    share = np.bincount(labels[split.held_out]) / np.bincount(labels)
    assert np.abs(share - 0.2).max() < 0.08


def test_another_seed_holds_out_other_groups() -> None:
    labels, groups = _patients(40)
    held = {tuple(np.unique(groups[holdout(labels, groups, seed=seed).held_out])) for seed in range(3)}
    assert len(held) == 3


def test_too_few_groups_fall_back_to_patches_with_a_warning() -> None:
    labels, groups = np.repeat([0, 1], 20), np.repeat([0, 1], 20)  # each class in a patient of its own
    split = holdout(labels, groups)
    assert split.by == "patch" and "2 group(s) are too few" in split.warning
    assert np.bincount(labels[split.held_out]).tolist() == [4, 4]


def test_patch_split_is_stratified_without_a_warning() -> None:
    labels, groups = _patients(6)
    split = holdout(labels, groups, by="patch")
    assert split.warning == ""
    expected = np.round(np.bincount(labels) * 0.2)
    assert np.bincount(labels[split.held_out]).tolist() == expected.tolist()


def test_one_patch_of_a_class_cannot_be_split() -> None:
    with pytest.raises(LabelError, match="at least 2 labelled patches"):
        holdout(np.array([0, 0, 1]), np.arange(3))


def test_folds_keep_groups_whole() -> None:
    labels, groups = _patients(10)
    folds = group_folds(labels, groups, folds=5)
    assert set(folds) == set(range(5))
    assert all(len(np.unique(folds[groups == group])) == 1 for group in range(10))
    with pytest.raises(UsageError, match="number of groups, 10; got 11"):
        group_folds(labels, groups, folds=11)
