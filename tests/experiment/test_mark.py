"""The gate of the mark on cases whose answer is known: chance, non-inferiority, fractions in order, Holm."""

from dataclasses import replace

import numpy as np
import pytest

from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.guessing import against_guessing
from wsitool.evaluation.intervals import Comparison, Error, Interval, Jackknife, compare
from wsitool.experiment.mark import LEVEL, margin_of, no_mark, reaches

_FRACTIONS = (0.25, 0.5, 1.0)


def _with_mark(**p_values: tuple[float, ...]) -> dict[tuple[str, float], Comparison]:
    """Comparisons of 30 patients whose p-values for more than -5 points are these, from 25 % up."""
    from scipy.stats import t

    error = Error(se=0.02, df=29, seeds_share=None)
    return {
        (arm, fraction): Comparison(difference=t.isf(p, 29) * 0.02 - 0.05, groups=30, error=error)
        for arm, values in p_values.items()
        for fraction, p in zip(_FRACTIONS, values, strict=True)
    }


def _smallest(comparisons: dict[tuple[str, float], Comparison]) -> dict[str, float | None]:
    arms = list(dict.fromkeys(arm for arm, _ in comparisons))
    return {name: reach.smallest for name, reach in reaches(comparisons, arms, _FRACTIONS, 0.05).items()}


def test_an_arm_stops_at_its_first_failure() -> None:
    # The p-value at 25 % counts for nothing after 50 % has failed.
    comparisons = _with_mark(a=(0.001, 0.03, 0.001))
    assert _smallest(comparisons) == {"a": 1.0}
    reach = reaches(comparisons, ["a"], _FRACTIONS, 0.05)["a"]
    assert reach.failed == 0.5
    assert reach.adjusted == pytest.approx({1.0: 0.001, 0.5: 0.03, 0.25: 0.03})
    assert _smallest(_with_mark(a=(0.03, 0.001, 0.001))) == {"a": 0.5}
    assert _smallest(_with_mark(a=(0.001, 0.001, 0.001))) == {"a": 0.25}
    assert _smallest(_with_mark(a=(0.001, 0.001, 0.03))) == {"a": None}


def test_arms_share_the_level_and_leave_it_to_one_another() -> None:
    # .02 is below .025, not below half of it; b succeeds everywhere and leaves its half to a.
    assert _smallest(_with_mark(a=(0.02, 0.02, 0.02), b=(0.3, 0.3, 0.3))) == {"a": None, "b": None}
    assert _smallest(_with_mark(a=(0.02, 0.02, 0.02), b=(0.012, 0.001, 0.001))) == {"a": 0.25, "b": 0.25}
    # One that fails at its smallest fraction keeps its half.
    assert _smallest(_with_mark(a=(0.02, 0.02, 0.02), b=(0.3, 0.001, 0.001))) == {"a": None, "b": 0.5}


def test_how_many_patients_would_show_it() -> None:
    reach = reaches(_with_mark(a=(0.3, 0.3, 0.3)), ["a"], _FRACTIONS, 0.05)["a"]
    # se .02 with 30 patients; .05 / 2.8 is needed: 30 (.02 x 2.8 / .05)^2 = 37.6.
    assert reach.smallest is None and reach.failed == 1.0 and reach.needed == 38
    seeds = Comparison(difference=0.0, groups=30, error=Error(se=0.02, df=3, seeds_share=0.5))
    # More patients make half of .02^2 smaller: 30 x .0002 / (.05^2 / 2.8^2 - .0002) = 50.5.
    assert reaches({("a", 1.0): seeds}, ["a"], [1.0], 0.05)["a"].needed == 51
    assert reaches({("a", 1.0): seeds}, ["a"], [1.0], 0.02)["a"].needed is None  # the seeds alone hide it
    none = Comparison(difference=0.0, groups=3, error=None, reason="too few patients")
    assert reaches({("a", 1.0): none}, ["a"], [1.0], 0.05)["a"].smallest is None


def test_the_margin_goes_by_the_number_of_patients() -> None:
    assert (margin_of(None, 40), margin_of(None, 39), margin_of(3.0, 5)) == (0.02, 0.05, 0.03)


def test_three_arms_that_are_just_too_bad_are_rarely_let_through() -> None:
    rng, declared, runs = np.random.default_rng(0), 0, 4000
    for _ in range(runs):
        # Truly 5 points below at every fraction; the errors of an arm's fractions are alike.
        common = rng.normal(size=(3, 1)) * np.sqrt(0.5)
        z = common + rng.normal(size=(3, 3)) * np.sqrt(0.5)
        se = 0.02 * np.sqrt(rng.chisquare(9, (3, 3)) / 9)
        comparisons = {
            (f"arm{arm}", fraction): Comparison(
                difference=-0.05 + 0.02 * z[arm, column],
                groups=10,
                error=Error(se=float(se[arm, column]), df=9, seeds_share=None),
            )
            for arm in range(3)
            for column, fraction in enumerate(_FRACTIONS)
        }
        declared += any(value is not None for value in _smallest(comparisons).values())
    assert declared / runs < LEVEL + 3 * np.sqrt(LEVEL / runs)


def _drawn(signals: list[float], seed: int, patients: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Probabilities of an arm for each signal on the same patients of 20 patches, half of either class."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), 20)
    labels = np.arange(len(groups)) % 2
    noise = 0.5 * rng.normal(size=(patients, 2))[groups] + 0.7 * rng.normal(size=(len(groups), 2))
    own = [noise + 0.7 * rng.normal(size=noise.shape) for _ in signals]
    return [softmax(n + s * np.eye(2)[labels]) for n, s in zip(own, signals, strict=True)], labels, groups


def _declared(signals: list[float], seed: int, patients: int = 12) -> bool:
    """Whether the second arm is said to reach the mark that the first one sets."""
    arms, labels, groups = _drawn(signals, seed, patients)
    mark, arm = (Jackknife.of([p], labels, groups) for p in arms)
    guessing = against_guessing([arms[0]], labels, groups, ["a", "b"])
    if no_mark(guessing, mark.interval("accuracy"), mark.reason("accuracy")):
        return False
    return reaches({("a", 1.0): compare(arm, mark)}, ["a"], [1.0], 0.05)["a"].smallest is not None


def test_nothing_reaches_a_mark_at_chance() -> None:
    assert sum(_declared([0.0, 0.0], seed) for seed in range(20)) <= 1
    # A mark that is there, and an arm as good or better, are found: the gate is no wall.
    assert sum(_declared([1.5, 2.5], seed) for seed in range(10)) >= 8


def test_arms_that_are_truly_worse_are_not_said_to_reach_it() -> None:
    # 82 % and 71 % right, as a large draw says.
    accuracies = [p.argmax(axis=1) == labels for p, labels in _pairs([1.5, 0.95])]
    assert np.mean(accuracies[0]) - np.mean(accuracies[1]) > 0.06
    assert sum(_declared([1.5, 0.95], seed) for seed in range(40)) <= 1


def _pairs(signals: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    arms, labels, _ = _drawn(signals, 99, 2000)
    return [(p, labels) for p in arms]


def test_why_there_is_no_mark_is_said() -> None:
    labels, groups = np.tile([0, 1], 100), np.repeat(np.arange(10), 20)
    guess = np.stack([np.full(200, 0.6), np.full(200, 0.4)], axis=1)
    guessing = against_guessing([guess], labels, groups, ["a", "b"])
    accuracy = Interval(low=0.4, high=0.6, value=0.5, groups=10, se=0.05, df=9, seeds_share=None)
    assert no_mark(guessing, accuracy, "").startswith("No better than guessing")
    ranks = replace(guessing, auroc_p=0.001)
    assert no_mark(ranks, accuracy, "") == (
        "the lower limit of its accuracy, 40.0 %, is not above chance, the 50.0 % of always answering 'a'"
    )
    assert no_mark(ranks, replace(accuracy, low=0.51), "") == ""
    assert no_mark(ranks, None, "too few patients: 3") == "its accuracy has no interval: too few patients: 3"
