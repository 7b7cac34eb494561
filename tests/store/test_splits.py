import numpy as np
import pytest

from wsitool.errors import LabelError, UsageError
from wsitool.store.splits import _choose_groups, _solved, group_folds, holdout


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
    with pytest.raises(LabelError, match="at least 2 labels"):
        holdout(np.array([0, 0, 1]), np.arange(3))


def test_folds_keep_groups_whole() -> None:
    labels, groups = _patients(10)
    folds = group_folds(labels, groups, folds=5)
    assert set(folds) == set(range(5))
    assert all(len(np.unique(folds[groups == group])) == 1 for group in range(10))
    with pytest.raises(UsageError, match="number of groups, 10; got 11"):
        group_folds(labels, groups, folds=11)


@pytest.mark.parametrize("seed", range(20))
def test_the_one_split_in_many_that_has_every_class_is_found(seed: int) -> None:
    # Nine classes of two patients each: 512 of 262,144 choices are one patient of every class.
    groups = np.repeat(np.arange(18), 5)
    split = holdout(groups // 2, groups, seed=seed)
    assert split.by == "group" and split.warning == ""
    assert sorted(np.unique(groups[split.held_out]) // 2) == list(range(9))


def test_where_no_choice_has_every_class_it_is_said_by_the_solver_too() -> None:
    groups = np.repeat(np.arange(18), 5)
    labels = np.where(groups == 17, 9, groups // 2)  # a tenth class of one patient
    split = holdout(labels, groups)
    assert split.by == "patch" and "too few, or too unlike" in split.warning


def test_solver_is_as_near_as_trying_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 12, (9, 3)) * (rng.random((9, 3)) < 0.5)
        counts[0], counts[1] = 1, 2  # every class in two groups at least

        def off(choice: np.ndarray, counts: np.ndarray = counts) -> float:
            return float(np.abs(counts[choice].sum(0) / counts.sum(0) - 0.3).sum())

        tried = _choose_groups(counts, 0.3, 1, np.random.default_rng(1))
        solved = _solved(counts, 0.3, 1, np.random.default_rng(1))
        assert tried is not None and solved is not None
        assert off(solved) == pytest.approx(off(tried), abs=0.01)


def test_enough_groups_are_held_out_where_there_are_enough() -> None:
    for count, held in ((40, 5), (12, 5), (6, 1)):
        labels, groups = _patients(count)
        split = holdout(labels, groups, share=0.05, least_groups=5)
        assert len(np.unique(groups[split.held_out])) >= held and split.by == "group"
    # Where the classes do not allow five it is as many as they do.
    groups = np.repeat(np.arange(12), 5)
    labels = (groups >= 10).astype(int)
    assert holdout(labels, groups, least_groups=5).by == "group"
