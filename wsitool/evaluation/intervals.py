"""How sure a figure is: intervals and comparisons over patients, not patches.

Patches of one patient are alike, so counting them one by one would claim far too much certainty. Each patient
is left out in turn (the cluster jackknife: MacKinnon, Nielsen & Webb, arXiv:2301.04527 and 2406.08880; for
the AUROC of clustered data Obuchowski 1997, doi:10.2307/2533958), and the standard error goes with a Student
t whose degrees of freedom say how many patients carry the figure (Bell & McCaffrey 2002; Pustejovsky &
Tipton, arXiv:1601.01981). How often such intervals cover the truth is measured by
`tests/benchmarks/bench_intervals.py`, see docs/intervals.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.metrics import METRICS, Predictions, metric_named

__all__ = ["TOO_FEW", "Comparison", "Error", "Interval", "Jackknife", "Patients", "compare", "holm"]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
TOO_FEW = "too few patients"
_LEAST_PATIENTS = 5
_LEAST_OF_A_CLASS = 2
_LEVEL = 0.95
_POWER = 0.8
_LARGEST_POWER = 100.0  # of e: where it is reached an interval is everything
# Of figures in floats that are equal on paper.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Error:
    """A standard error with the degrees of freedom of its Student t.

    `seeds_share` is the label seeds' part of its square, None of a single seed, whose choice of labels is
    then no part of it.
    """

    se: float
    df: float
    seeds_share: float | None

    def half_width(self, level: float = _LEVEL) -> float:
        """Of the two-sided interval of that level."""
        return float(_quantile((1 + level) / 2, self.df) * self.se)

    def p_above(self, excess: float) -> float:
        """One-sided p-value of a figure that lies `excess` above its null value."""
        from scipy.special import stdtr

        return float(stdtr(self.df, -excess / self.se))

    @property
    def detectable(self) -> float:
        """The smallest true difference that is found with a power of 80 % at p < .05."""
        return float((_quantile((1 + _LEVEL) / 2, self.df) + _quantile(_POWER, self.df)) * self.se)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval of a metric over `groups` patients; `se` and `df` are those of its Student t.

    `value` is what it is around: the metric, less its bias where it has a known one (the calibration error).
    """

    low: float
    high: float
    value: float
    groups: int
    se: float
    df: float
    seeds_share: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arm a minus arm b on the same patches, over `groups` patients.

    `error` is None where `reason` says why: too few patients, or no patient makes a difference. `adjusted_p`
    is the p-value among all comparisons that were made (`holm`).
    """

    difference: float
    groups: int
    error: Error | None
    reason: str = ""
    adjusted_p: float | None = None

    @property
    def low(self) -> float | None:
        """The lower bound of the 95 % interval."""
        return None if self.error is None else self.difference - self.error.half_width()

    @property
    def high(self) -> float | None:
        """The upper one."""
        return None if self.error is None else self.difference + self.error.half_width()

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the same t as the interval: below .05 just where that leaves 0 out."""
        return None if self.error is None else 2 * self.error.p_above(abs(self.difference))

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value for a true difference above `limit`; below .025 just where `low` is above it."""
        return None if self.error is None else self.error.p_above(self.difference - limit)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = {"se": None, "df": None, "seeds_share": None} if self.error is None else asdict(self.error)
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "adjusted_p": self.adjusted_p,
            "detectable": None if self.error is None else self.error.detectable,
            "groups": self.groups,
            **error,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Patients:
    """How many patches (G, K) each patient has of each class, which decides whether there is an interval."""

    patches: Floats

    @property
    def count(self) -> int:
        return len(self.patches)

    @cached_property
    def reason(self) -> str:
        """Why no figure has an interval, beginning with `TOO_FEW`; "" where there may be one."""
        if self.count < _LEAST_PATIENTS:
            return f"{TOO_FEW}: {self.count}, and an interval needs {_LEAST_PATIENTS}"
        least = int((self.patches > 0).sum(axis=0).min())
        if least < _LEAST_OF_A_CLASS:
            return f"{TOO_FEW}: {least} of one class, and an interval needs {_LEAST_OF_A_CLASS} of each"
        return ""

    def df(self, *, by_class: bool) -> float:
        """Bell and McCaffrey's degrees of freedom; `by_class` where the classes count alike, not the patches.

        From the patients' shares of the patches (of each class): one with half of them leaves few. G - 1 is
        too many with unequal patients, see docs/intervals.md.
        """
        strata = self.patches if by_class else self.patches.sum(axis=1, keepdims=True)
        return _bell_mccaffrey(strata / strata.sum(axis=0))


def _bell_mccaffrey(shares: Floats) -> float:
    """Satterthwaite's df of the jackknife's variance, for `shares` (G, K) of patients in each of K means.

    The figure is the mean of K means, each over patients weighted by their share, whose own means vary alike.
    The jackknife's square is then a quadratic form with matrix B (G, G); df = tr(B)^2 / tr(B B). B is
    diagonal but for 2 K columns, so that it is never formed.
    """
    classes = shares.shape[1]
    # What leaving a patient out moves the figure by: a times the patient's residual, whose covariance with
    # another's is [same] - w_g - w_h + sum of w^2.
    a = shares / (1 - shares) / classes
    columns = np.concatenate([a, a * shares], axis=1)  # (G, 2 K)
    eye = np.eye(classes)
    middle = np.block([[np.diag((shares**2).sum(axis=0)), -eye], [-eye, np.zeros_like(eye)]])
    diagonal = (a**2).sum(axis=1)
    low_rank = np.einsum("gi,ij,gj->g", columns, middle, columns)
    product = middle @ (columns.T @ columns)
    square = (diagonal**2).sum() + 2 * (diagonal * low_rank).sum() + np.trace(product @ product)
    return float((diagonal + low_rank).sum() ** 2 / square)


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """Every metric of S runs (seeds) for all patches and without each of G patients: arrays (S, 1 + G).

    `excess` is the bias of metrics that have a known one, and the most that it can be: means over the runs.
    """

    values: dict[str, Floats]
    excess: dict[str, tuple[float, float]]
    patients: Patients

    @classmethod
    def of(cls, runs: Sequence[Floats], labels: Labels, groups: Labels) -> Self:
        """Of probabilities (N, K), one array per run, of the same patches with `labels` and `groups` (N,)."""
        predictions = [Predictions.of(run, labels, groups) for run in runs]
        metrics = [metric_named(name) for name in METRICS]
        of_class = predictions[0].sums_of(labels, runs[0].shape[1])
        return cls(
            values={
                metric.name: np.stack([metric.compute(each) for each in predictions]) for metric in metrics
            },
            excess={
                metric.name: tuple(np.mean([metric.excess(each) for each in predictions], axis=0).tolist())
                for metric in metrics
                if metric.excess is not None
            },
            patients=Patients(patches=of_class[0] - of_class[1:]),
        )

    def reason(self, name: str) -> str:
        """Why a metric has no interval, beginning with `TOO_FEW`; "" where it has one."""
        least, count = metric_named(name).least_groups, self.patients.count
        if self.patients.reason:
            return self.patients.reason
        if count < least:
            return f"{TOO_FEW}: {count}, and its interval needs {least}"
        if _error([self.values[name]], self.patients, name) is None:
            return f"{TOO_FEW}: it is the same without any of the {count}"
        return ""

    def reasons(self) -> dict[str, str]:
        """Those of the metrics that have no interval."""
        return {name: reason for name in METRICS if (reason := self.reason(name))}

    def interval(self, name: str) -> Interval | None:
        """The interval of a metric's mean over the runs; None for too few patients.

        On the logit or log scale by the delta method, so that it stays where the metric can be.
        """
        metric = metric_named(name)
        error = _error([self.values[name]], self.patients, name)
        if error is None or self.reason(name):
            return None
        value, half = float(self.values[name][:, 0].mean()), error.half_width()
        # One patient with nearly all patches makes the half width many times the figure.
        ratio = min(half / value, _LARGEST_POWER)
        low, high = value * np.exp(-ratio), min(metric.most, value * np.exp(ratio))
        if metric.scale == "logit":
            reach = min(half / (value * (1 - value)), _LARGEST_POWER)
            odds = value / (1 - value)
            low, high = (each / (1 + each) for each in (odds * np.exp(-reach), odds * np.exp(reach)))
        if name in self.excess:
            # It may be 0, and is skewed: up on the log scale from the plain figure, down on a straight one
            # from what is left if all that noise can make is taken off.
            likely, most = self.excess[name]
            low = max(0.0, value - most - half)
            value = max(0.0, value - likely)
        return Interval(
            low=float(low), high=float(high), value=value, groups=self.patients.count, **asdict(error)
        )

    def intervals(self) -> dict[str, Interval | None]:
        """That of each metric."""
        return {name: self.interval(name) for name in METRICS}


def compare(a: Jackknife, b: Jackknife, metric: str = "accuracy") -> Comparison:
    """Two arms on the same patches, run by run (seed by seed): both are judged without the same patients.

    Of arms with unequal numbers of runs the means are compared, and the spread of each over its own counts.
    """
    ours, theirs, patients = a.values[metric], b.values[metric], a.patients
    sides = [ours - theirs] if len(ours) == len(theirs) else [ours, -theirs]
    difference = float(sum(each[:, 0].mean() for each in sides))
    error = _error(sides, patients, metric)
    reason = ""
    if error is None:
        reason = patients.reason or (TOO_FEW if difference else "the same without any patient")
    return Comparison(difference=difference, groups=patients.count, error=error, reason=reason)


def holm(comparisons: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number (Holm 1979): below .05 for at most one in twenty sets by chance.

    None, of a comparison that could not be made, stays and is not counted.
    """
    made = sorted((p, index) for index, p in enumerate(comparisons) if p is not None)
    adjusted: list[float | None] = [None] * len(comparisons)
    largest = 0.0
    for rank, (p, index) in enumerate(made):
        # Never below that of a smaller p-value.
        largest = max(largest, min(1.0, p * (len(made) - rank)))
        adjusted[index] = largest
    return adjusted


def _error(parts: Sequence[Floats], patients: Patients, name: str) -> Error | None:
    """Of the sum of the means over runs of `parts`, each (S, 1 + G) with runs of its own.

    What patients and label seeds make of it; None for too few patients.
    """
    if patients.reason or not all(np.isfinite(values).all() for values in parts):
        return None
    count = patients.count
    without = np.sum([values[:, 1:].mean(axis=0) for values in parts], axis=0)
    groups_square = float((count - 1) / count * ((without - without.mean()) ** 2).sum())
    if groups_square <= _ROUNDING**2:
        return None
    df = patients.df(by_class=metric_named(name).by_class)
    # (square, degrees of freedom) of each part's label seeds; a single one's luck is not known
    seeds = [(float(each[:, 0].var(ddof=1)) / len(each), len(each) - 1) for each in parts if len(each) > 1]
    if not seeds:
        return Error(se=float(np.sqrt(groups_square)), df=df, seeds_share=None)
    seeds_square = sum(square for square, _ in seeds)
    square = groups_square + seeds_square
    # Satterthwaite: the degrees of freedom of a sum of variances.
    df = square**2 / (groups_square**2 / df + sum(each**2 / runs for each, runs in seeds))
    return Error(se=float(np.sqrt(square)), df=df, seeds_share=seeds_square / square)


def _quantile(share: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, share))
