import numpy as np
import pytest

from wsitool.evaluation.statistics import group_intervals, paired_comparison


def _hits(right: np.ndarray) -> np.ndarray:
    """Two-class probabilities for labels of zeros that are right where `right`."""
    return np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])


def test_interval_of_a_known_case() -> None:
    # 50 patients of 10 alike patches, 30 of them right: accuracy is binomial(50, .6)/50, so the normal
    # approximation of its 95 % interval is .6 +- 1.96 * sqrt(.24 / 50) = [.464, .736].
    right = np.repeat(np.arange(50) < 30, 10)
    interval = group_intervals([_hits(right)], np.zeros(500, int), np.repeat(np.arange(50), 10))["accuracy"]
    assert interval is not None and interval.groups == 50
    assert (interval.low, interval.high) == pytest.approx((0.464, 0.736), abs=0.012)


def test_patches_of_one_patient_do_not_count_as_many() -> None:
    right = np.repeat(np.arange(50) < 30, 10)
    labels = np.zeros(500, int)
    by_patient = group_intervals([_hits(right)], labels, np.repeat(np.arange(50), 10))["accuracy"]
    by_patch = group_intervals([_hits(right)], labels, np.arange(500))["accuracy"]
    assert by_patient is not None and by_patch is not None
    ratio = (by_patient.high - by_patient.low) / (by_patch.high - by_patch.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.1)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        patient = rng.beta(6, 4, 40)  # mean accuracy .6
        right = rng.random(400) < np.repeat(patient, 10)
        interval = group_intervals(
            [_hits(right)], np.zeros(400, int), np.repeat(np.arange(40), 10), resamples=400
        )["accuracy"]
        assert interval is not None
        covered += interval.low <= 0.6 <= interval.high
    assert 52 <= covered <= 60  # 95 % of 60 is 57


def test_one_group_gives_no_interval() -> None:
    found = group_intervals([_hits(np.ones(5, bool))], np.zeros(5, int), np.zeros(5, int))
    assert set(found.values()) == {None}


def test_paired_comparison_sees_what_pairing_shows() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    b = rng.random(600) < np.repeat(rng.uniform(0.2, 0.9, 30), 20)  # patients differ a lot
    a = b | (rng.random(600) < 0.2)  # but a is never worse
    labels = np.zeros(600, int)
    found = paired_comparison([_hits(a)], [_hits(b)], labels, groups)
    assert found is not None
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert 0 < found.low < found.difference < found.high and found.p_value <= 0.002
    same = paired_comparison([_hits(a)], [_hits(a)], labels, groups)
    assert same is not None and same.p_value == 1.0 and same.difference == 0


def test_block_size_does_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.random.default_rng(1).random(60) < 0.7
    arguments = ([_hits(right)], np.zeros(60, int), np.repeat(np.arange(12), 5))
    whole = group_intervals(*arguments, resamples=100)
    monkeypatch.setattr("wsitool.evaluation.statistics._CELLS_AT_ONCE", 60 * 7)
    assert group_intervals(*arguments, resamples=100) == whole
