"""Who reaches the mark: shown not to be worse than full supervision by more than a margin.

Non-inferiority is shown where the lower limit of (arm - mark) is above -margin, one-sided at p < .025, the
level of a 95 % interval's lower limit. Each arm goes from the largest fraction down and stops at its first
failure, so that its fractions need no correction; the arms share the level (Holm 1979), and one that succeeds
at every fraction leaves its part to the others (Bretz et al. 2009, doi:10.1002/sim.3495).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsitool.evaluation.amounts import Amount, amount_in_json
from wsitool.evaluation.guessing import Guessing
from wsitool.evaluation.intervals import Comparison, Interval

__all__ = ["LEVEL", "Reach", "margin_of", "no_mark", "reaches"]

LEVEL = 0.025
_MARGIN_POINTS = 2.0
_WIDE_MARGIN_POINTS = 5.0
_MANY_PATIENTS = 40
# Of the normal distribution: 97.5 % and 80 %.
_DEVIATIONS = 1.96 + 0.84


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far down one arm is as good as the mark; `smallest` is None where it is nowhere shown.

    `p_values` are one-sided, `adjusted` for the number of arms and the order of the fractions: both below
    .025 where it is shown. `needed` patients like these would show it at the first fraction that failed, were
    arm and mark alike, four times in five; None where none failed or no number suffices, as too few label
    seeds hide it.
    """

    smallest: Amount | None
    failed: Amount | None
    p_values: dict[Amount, float | None]
    adjusted: dict[Amount, float | None]
    needed: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, whose keys are text."""
        smallest, failed = (
            None if amount is None else amount_in_json(amount) for amount in (self.smallest, self.failed)
        )
        tests = {
            str(amount): {"p_value": p, "adjusted_p": self.adjusted[amount]}
            for amount, p in self.p_values.items()
        }
        return {"smallest": smallest, "failed": failed, "needed": self.needed, "non_inferiority": tests}


def margin_of(points: float | None, patients: int) -> float:
    """The margin as a share: `points`, or 2 percentage points, 5 below 40 test patients."""
    if points is None:
        points = _MARGIN_POINTS if patients >= _MANY_PATIENTS else _WIDE_MARGIN_POINTS
    return points / 100


def no_mark(guessing: Guessing, accuracy: Interval | None, reason: str) -> str:
    """Why nothing can reach full supervision, as it is not shown to be above chance itself; "" where it is.

    `accuracy` is its interval, `reason` why there is none.
    """
    if accuracy is None:
        return f"its accuracy has no interval: {reason}"
    if not guessing.better:
        return guessing.sentence()
    if accuracy.low <= guessing.majority_share:
        return (
            f"the lower limit of its accuracy, {100 * accuracy.low:.1f} %, is not above chance, the "
            f"{100 * guessing.majority_share:.1f} % of always answering '{guessing.majority_class}'"
        )
    return ""


def reaches(
    with_mark: Mapping[tuple[str, Amount], Comparison],
    arms: Sequence[str],
    fractions: Sequence[Amount],
    margin: float,
) -> dict[str, Reach]:
    """Of each arm, by its comparisons with the mark keyed by (arm, fraction).

    Where there is none, as an arm is the mark itself with all labels in another order, nothing is tested.
    """
    p_values = {
        arm: {
            fraction: with_mark[arm, fraction].p_above(-margin)
            for fraction in sorted(fractions, reverse=True)
            if (arm, fraction) in with_mark
        }
        for arm in arms
    }
    p_values = {arm: tests for arm, tests in p_values.items() if tests}
    # The worst of an arm's fractions decides whether it leaves its part of the level to the others.
    worst = {arm: max(1.0 if p is None else p for p in tests.values()) for arm, tests in p_values.items()}
    results = {}
    sharing = len(worst)
    for arm in sorted(worst, key=lambda name: worst[name]):
        downwards = list(p_values[arm])
        adjusted = _adjusted(p_values[arm], sharing)
        shown = [fraction for fraction, p in adjusted.items() if p is not None and p < LEVEL]
        # Adjusted p-values only grow on the way down: the ones shown are the first.
        failed = downwards[len(shown)] if len(shown) < len(downwards) else None
        results[arm] = Reach(
            smallest=shown[-1] if shown else None,
            failed=failed,
            p_values=p_values[arm],
            adjusted=adjusted,
            needed=None if failed is None else _patients_needed(with_mark[arm, failed], margin),
        )
        if failed is None:
            sharing -= 1
    return {arm: results[arm] for arm in p_values}


def _adjusted(p_values: Mapping[Amount, float | None], arms: int) -> dict[Amount, float | None]:
    """For `arms` that share the level; after the first that could not be tested none is."""
    largest: float | None = 0.0
    adjusted: dict[Amount, float | None] = {}
    for fraction, p in p_values.items():
        largest = None if p is None or largest is None else max(largest, min(1.0, p * arms))
        adjusted[fraction] = largest
    return adjusted


def _patients_needed(comparison: Comparison, margin: float) -> int | None:
    if (error := comparison.error) is None:
        return None
    seeds = error.se**2 * (error.seeds_share or 0.0)
    # More patients make the patients' part smaller, not that of the label seeds.
    left = (margin / _DEVIATIONS) ** 2 - seeds
    patients = comparison.groups * (error.se**2 - seeds)
    return math.ceil(patients / left) if left > 0 else None
