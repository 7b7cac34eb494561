"""Intervals over patients: by hand, beside other people's formulas, and against drawn truths."""

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from wsitool.evaluation.intervals import (
    TOO_FEW,
    Comparison,
    Error,
    Jackknife,
    Patients,
    _bell_mccaffrey,
    compare,
    holm,
)
from wsitool.evaluation.metrics import METRICS, score


def _right(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Two-class probabilities for `labels` that are right where `right`."""
    return np.where((right == (labels == 0))[:, None], [0.9, 0.1], [0.1, 0.9])


def _patients(count: int, patches: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups: each patient has as many patches of either class."""
    return np.tile(np.repeat([0, 1], patches // 2), count), np.repeat(np.arange(count), patches)


def _accuracy(hits: list[int], patches: int = 4) -> Jackknife:
    """That many patches right of each patient."""
    labels, groups = _patients(len(hits), patches)
    right = np.concatenate([np.arange(patches) < number for number in hits])
    return Jackknife.of([_right(right, labels)], labels, groups)


def test_a_small_case_by_hand() -> None:
    # Right: 4, 3, 2, 4, 2 of 4, .75 in all. Without each: 11, 12, 13, 11, 13 of 16, mean 12, so that
    # se^2 = 4/5 (1 + 0 + 1 + 1 + 1) / 16^2 = 1/80. Equal shares: df = 4, t = 2.7764.
    interval = _accuracy([4, 3, 2, 4, 2]).interval("accuracy")
    assert interval is not None and interval.groups == 5
    assert (interval.se**2, interval.df) == pytest.approx((1 / 80, 4))
    # On the logit scale 1.0986 -+ 2.7764 * .1118 / (.75 * .25) = -.5569 to 2.7541.
    assert (interval.low, interval.high) == pytest.approx((0.3643, 0.9401), abs=1e-4)
    assert interval.seeds_share is None


def test_degrees_of_freedom_by_hand() -> None:
    # Shares 1/2, 1/4, 1/4: a = w / (1 - w) = 1, 1/3, 1/3, sum of squares 3/8, and
    # B = [[3/8, -1/8, -1/8], [-1/8, 7/72, -1/72], [-1/8, -1/72, 7/72]].
    matrix = np.array([[27, -9, -9], [-9, 7, -1], [-9, -1, 7]]) / 72
    expected = np.trace(matrix) ** 2 / (matrix**2).sum()
    shares = np.array([[0.5], [0.25], [0.25]])
    assert _bell_mccaffrey(shares) == pytest.approx(expected) == pytest.approx(1.458, abs=1e-3)
    patients = Patients(patches=np.array([[4.0], [2.0], [2.0]]))
    assert patients.df(by_class=False) == pytest.approx(expected)
    # Equal shares: those of the plain t-test over patients; each class with its own patients: of Welch's.
    assert _bell_mccaffrey(np.full((9, 1), 1 / 9)) == pytest.approx(8)
    apart = np.zeros((10, 2))
    apart[:5, 0] = apart[5:, 1] = 1 / 5
    assert _bell_mccaffrey(apart) == pytest.approx(8)


def test_degrees_of_freedom_are_those_of_the_drawn_variance() -> None:
    sizes = np.array([2, 3, 4, 8, 15, 40])
    rng = np.random.default_rng(0)
    means = rng.normal(size=(20_000, len(sizes)))  # of patients that vary alike
    total = means @ sizes
    without = (total[:, None] - means * sizes) / (sizes.sum() - sizes)
    variance = ((without - total[:, None] / sizes.sum()) ** 2).sum(axis=1)
    drawn = 2 * variance.mean() ** 2 / variance.var()
    assert _bell_mccaffrey((sizes / sizes.sum())[:, None]) == pytest.approx(drawn, rel=0.05)


def test_one_patch_a_patient_is_delong() -> None:
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1], [60, 90]))
    scores = 1 / (1 + np.exp(-rng.normal(size=150) - labels))
    interval = Jackknife.of([np.stack([1 - scores, scores], axis=1)], labels, np.arange(150)).interval(
        "auroc"
    )
    won = scores[labels == 1][:, None] > scores[labels == 0]  # placements of either class
    delong = won.mean(axis=1).var(ddof=1) / 90 + won.mean(axis=0).var(ddof=1) / 60
    assert interval is not None and interval.se**2 == pytest.approx(delong, rel=0.02)


def test_patches_of_one_patient_do_not_count_as_many() -> None:
    right, labels = np.repeat(np.arange(50) < 30, 10), np.tile([0, 1], 250)
    by_patient, by_patch = (
        Jackknife.of([_right(right, labels)], labels, groups).interval("accuracy")
        for groups in (np.repeat(np.arange(50), 10), np.arange(500))
    )
    assert by_patient is not None and by_patch is not None
    assert by_patient.se / by_patch.se == pytest.approx(np.sqrt(10), rel=0.02)


def test_too_few_patients_have_no_interval_and_are_told() -> None:
    assert _accuracy([4, 3, 2, 4]).reason("accuracy") == f"{TOO_FEW}: 4, and an interval needs 5"
    same = _accuracy([3] * 8)
    assert same.interval("accuracy") is None
    assert same.reason("accuracy") == f"{TOO_FEW}: it is the same without any of the 8"
    few = _accuracy([4, 3, 2, 4, 2] * 3)
    assert few.interval("loss") is not None and few.interval("ece") is None
    assert few.reasons() == {"ece": f"{TOO_FEW}: 15, and its interval needs 20"}
    assert _accuracy([4, 3, 2, 4, 2] * 4).reasons() == {}
    labels = np.repeat([0, 0, 0, 0, 0, 1], 4)
    right = np.arange(24) % 4 < np.repeat([4, 3, 2, 4, 2, 1], 4)
    alone = Jackknife.of([_right(right, labels)], labels, np.repeat(np.arange(6), 4))
    assert set(alone.intervals().values()) == {None}
    assert alone.reason("auroc") == f"{TOO_FEW}: 1 of one class, and an interval needs 2 of each"
    comparison = compare(alone, alone)
    assert comparison.error is None and comparison.reason == alone.reason("auroc")
    assert comparison.to_dict()["p_value"] is None


def test_a_patient_with_nearly_all_patches_leaves_nothing_known() -> None:
    labels = np.tile([0, 1], 10_020)
    groups = np.concatenate([np.full(20_000, 9), np.repeat(np.arange(5), 8)])
    rng = np.random.default_rng(0)
    right = np.where(groups == 9, rng.random(20_040) < 0.999, rng.random(20_040) < 0.3)
    jackknife = Jackknife.of([_right(right, labels)], labels, groups)
    for name, most in (("accuracy", 1), ("auroc", 1), ("loss", 27.7)):
        interval = jackknife.interval(name)
        assert interval is not None and interval.df < 2.5
        assert 0 <= interval.low < 0.5 * most and 0.99 * most < interval.high <= most


def test_calibration_error_is_freed_of_noise() -> None:
    plain, corrected = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.5, 1, 50)
        labels = (rng.random(50) < confidence).astype(np.int64)  # a perfect model
        p = np.stack([1 - confidence, confidence], axis=1)
        interval = Jackknife.of([p], labels, np.arange(50)).interval("ece")
        assert interval is not None and 0 <= interval.low <= interval.value <= interval.high <= 1
        plain.append(score(p, labels)["ece"])
        corrected.append(interval.value)
    assert np.mean(plain) > 0.11 and np.mean(corrected) < 0.4 * np.mean(plain)


def _arms(seed: int, count: int = 12) -> tuple[Jackknife, Jackknife]:
    """Two arms of two label seeds; the first is right more often, on patients that differ a lot."""
    labels, groups = _patients(count, 20)
    first, second = (Jackknife.of(arm, labels, groups) for arm in (_runs(seed, (2, 2), count)))
    return first, second


def _runs(seed: int, numbers: tuple[int, int], count: int = 12) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels, groups = _patients(count, 20)
    easy = rng.uniform(0.2, 0.9, count)[groups]
    return [
        [_right(rng.random(len(groups)) < easy + gain, labels) for _ in range(number)]
        for gain, number in zip((0.1, 0.0), numbers, strict=True)
    ]


def test_p_value_and_interval_are_of_one_t() -> None:
    sides = set()
    for seed in range(12):
        comparison = compare(*_arms(seed))
        assert comparison.low is not None and comparison.high is not None and comparison.p_value is not None
        outside = not comparison.low <= 0 <= comparison.high
        assert (comparison.p_value < 0.05) == outside
        for limit in (-0.02, 0.0, 0.05):
            p = comparison.p_above(limit)
            assert p is not None and (p < 0.025) == (comparison.low > limit)
        sides.add(outside)
    assert sides == {True, False}


def test_the_same_arm_twice_is_no_difference() -> None:
    arm = _arms(0)[0]
    comparison = compare(arm, arm)
    assert comparison.difference == 0 and comparison.p_value is None
    assert comparison.reason == "the same without any patient"


def test_label_seeds_are_part_of_the_error() -> None:
    first, second = _arms(3)
    gaps = first.values["accuracy"] - second.values["accuracy"]
    error = compare(first, second).error
    assert error is not None and error.seeds_share is not None
    without = gaps[:, 1:].mean(axis=0)
    patients = 11 / 12 * ((without - without.mean()) ** 2).sum()
    seeds = (gaps[0, 0] - gaps[1, 0]) ** 2 / 2 / 2  # the variance of two, over two
    assert error.se**2 == pytest.approx(patients + seeds)
    assert error.seeds_share == pytest.approx(seeds / (patients + seeds))
    assert error.df == pytest.approx((patients + seeds) ** 2 / (patients**2 / 11 + seeds**2 / 1))


def test_the_difference_said_to_be_detectable_is_found_four_times_in_five() -> None:
    error = Error(se=0.03, df=19, seeds_share=None)
    critical = student.ppf(0.975, 19)
    assert error.half_width() == pytest.approx(critical * 0.03)
    assert nct.sf(critical, 19, error.detectable / 0.03) == pytest.approx(0.8, abs=0.01)


def test_holm_by_hand() -> None:
    # 3 x .01, then 2 x .03, then .04, which is not below the one before.
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06], nan_ok=True)
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("metric", METRICS[:4])
def test_intervals_cover_and_nothing_is_found_where_nothing_is(metric: str) -> None:
    covered = wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = 2 * rng.integers(2, 30, 10)
        groups = np.repeat(np.arange(10), sizes)
        labels = np.arange(len(groups)) % 2
        arms = []
        for _ in range(2):
            right = rng.random(len(groups)) < rng.beta(6, 4, 10)[groups]  # .6 in the mean of patients
            arms.append(Jackknife.of([_right(right, labels)], labels, groups))
        interval, p_value = arms[0].interval(metric), compare(*arms, metric).p_value
        assert interval is not None and p_value is not None
        covered += interval.low <= 0.6 <= interval.high
        wrong += p_value < 0.05
    assert covered >= 52 and wrong <= 8  # 57 and 3 of 60 are said


def test_a_comparison_in_json() -> None:
    values = Comparison(difference=0.1, groups=9, error=Error(se=0.05, df=8, seeds_share=0.5)).to_dict()
    assert values["low"] < 0 < values["high"] and values["seeds_share"] == 0.5
    assert values["p_value"] == pytest.approx(2 * student.sf(2, 8)) and values["adjusted_p"] is None


def test_arms_of_unequal_runs_bring_the_luck_of_their_own_seeds() -> None:
    more, second = (Jackknife.of(arm, *_patients(12, 20)) for arm in _runs(3, (4, 2)))
    ours, theirs = more.values["accuracy"], second.values["accuracy"]
    error = compare(more, second).error
    assert len(ours) == 4 != len(theirs) and error is not None
    gap = ours.mean(axis=0) - theirs.mean(axis=0)
    assert compare(more, second).difference == pytest.approx(gap[0])
    patients = 11 / 12 * ((gap[1:] - gap[1:].mean()) ** 2).sum()
    luck = [ours[:, 0].var(ddof=1) / 4, theirs[:, 0].var(ddof=1) / 2]
    assert error.se**2 == pytest.approx(patients + sum(luck))
    assert error.df == pytest.approx(
        (patients + sum(luck)) ** 2 / (patients**2 / 11 + luck[0] ** 2 / 3 + luck[1] ** 2 / 1)
    )
