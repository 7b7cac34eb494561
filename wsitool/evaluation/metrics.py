"""How good predictions are: the figures of the paper's table 2 and those it leaves out.

Every figure comes with what it is without each group (patient), which is what a jackknife needs. Counts and
sums of a group are subtracted from those of all, so that G groups cost hardly more than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CURVES",
    "METRICS",
    "Metric",
    "Predictions",
    "confusion_matrix",
    "metric_named",
    "score",
]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
_ECE_BINS = 15
# A patch of probability 0 costs 27.6, not infinity.
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Probabilities (N, K) of patches with `labels` (N,), in G groups: `groups` (N,) from 0 to G - 1.

    Rows of what is computed from it are 1 + G: all patches, then those without each group in turn. Without
    groups (G = 0) it is all patches only.
    """

    probabilities: Floats
    labels: Labels
    groups: Labels
    group_count: int

    @classmethod
    def of(cls, probabilities: Floats, labels: Labels, groups: Labels | None = None) -> Self:
        """With `groups` any integers (N,), numbered here in their order; None for no groups."""
        index = np.zeros(len(labels), np.int64)
        count = 0
        if groups is not None:
            names, index = np.unique(groups, return_inverse=True)
            count = len(names)
        probabilities = np.asarray(probabilities, np.float64)
        return cls(probabilities=probabilities, labels=labels, groups=index, group_count=count)

    @cached_property
    def predicted(self) -> Labels:
        """(N,) the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def correct(self) -> Floats:
        """(N,) 1 where that is the label."""
        return np.asarray(self.predicted == self.labels, np.float64)

    @cached_property
    def counts(self) -> Floats:
        """(1 + G,) patches."""
        return self.sums(np.ones(len(self.labels)))

    @cached_property
    def confusion(self) -> Floats:
        """(1 + G, K, K) patches by true class and predicted one."""
        classes = self.probabilities.shape[1]
        cells = self.sums_of(self.labels * classes + self.predicted, classes**2)
        return cells.reshape(-1, classes, classes)

    @cached_property
    def per_class(self) -> tuple[Floats, Floats]:
        """Recall and F1 of each class, (1 + G, K): NaN for an absent class, F1 for one never seen."""
        true, predicted = self.confusion.sum(axis=2), self.confusion.sum(axis=1)
        both = np.diagonal(self.confusion, axis1=1, axis2=2)
        return _ratio(both, true), _ratio(2 * both, true + predicted)

    def sums(self, values: NDArray[np.generic]) -> Floats:
        """(1 + G,) sums of values (N,)."""
        return self.sums_of(np.zeros(len(values), np.int64), 1, values)[:, 0]

    def sums_of(self, kinds: Labels, kind_count: int, values: NDArray[np.generic] | None = None) -> Floats:
        """(1 + G, M) sums of values (N,), or numbers of patches, of each of M kinds: `kinds` (N,) below M."""
        rows = max(1, self.group_count)
        cells = np.bincount(
            self.groups * kind_count + kinds, weights=values, minlength=rows * kind_count
        ).reshape(rows, kind_count)
        total = cells.sum(axis=0, keepdims=True)
        # Without groups all are in one row, which is the total already.
        return np.concatenate([total, total - cells][: 1 + bool(self.group_count)]).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure: `compute` gives (1 + G,) values, NaN where the classes present do not define it.

    One with a `curve` title is drawn over the label fractions by `experiment`. `scale` is where its interval
    is symmetric: "logit" for shares, "log" for what is above 0; `most` is the largest value there is.
    `by_class` says that each class counts alike, whatever its patches. Below `least_groups` patients it has
    no interval; `excess` is by how much it is likely too high, and at most.
    """

    name: str
    compute: Callable[[Predictions], Floats]
    curve: str = ""
    scale: Literal["logit", "log"] = "logit"
    most: float = 1.0
    by_class: bool = False
    least_groups: int = 5
    excess: Callable[[Predictions], tuple[float, float]] | None = None


def score(probabilities: Floats, labels: Labels) -> dict[str, float | None]:
    """Judge probabilities (N, K) against labels (N,): one value for each of `METRICS`.

    `loss` is the mean negative log-likelihood per patch; `auroc` is macro one-vs-rest (for two classes that
    of the second); `ece` the expected calibration error of the top class in 15 equal bins (arXiv:1706.04599).
    A value that the classes present do not define is None.
    """
    predictions = Predictions.of(probabilities, labels)
    values = {metric.name: float(metric.compute(predictions)[0]) for metric in _TABLE}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    # One number for each pair of classes, counted in one pass.
    flat = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def metric_named(name: str) -> Metric:
    """The entry of the table; KeyError for a name that is not among `METRICS`."""
    return _BY_NAME[name]


def _loss(predictions: Predictions) -> Floats:
    p = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return _ratio(predictions.sums(-np.log(np.maximum(p, _LEAST_PROBABILITY))), predictions.counts)


def _accuracy(predictions: Predictions) -> Floats:
    return _ratio(predictions.sums(predictions.correct), predictions.counts)


def _auroc(predictions: Predictions) -> Floats:
    p, labels = predictions.probabilities, predictions.labels
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    values = [_one_auroc(p[:, k], labels == k, predictions) for k in classes]
    return _mean_defined(np.stack(values, axis=1))


def _one_auroc(scores: Floats, positive: NDArray[np.bool_], predictions: Predictions) -> Floats:
    """P(score of a positive > that of a negative) + half the ties, for all patches and without each group.

    Without a group all pairs are missing that one of its patches is part of: those of its positives with any
    negative and of its negatives with any positive, less the pairs inside it, which were counted twice.
    """
    # Ties may come in any order, and so the faster sort will do: SIMD, where numpy has it.
    scores = np.ascontiguousarray(scores)
    order = np.argsort(scores)
    ups = predictions.sums(positive)
    downs = predictions.counts - ups
    up, down, run = _runs(scores[order], positive[order], None)
    below, above = np.cumsum(down) - down / 2, ups[0] - np.cumsum(up) + up / 2
    won = np.full(len(ups), (up * below).sum())
    if groups_left_out := predictions.group_count:
        # Stable: within each group the scores stay sorted, and no second sort by score is needed. numpy has a
        # radix sort for numbers of 16 bits.
        groups = predictions.groups.astype(np.min_scalar_type(groups_left_out))[order]
        inner = order[np.argsort(groups, kind="stable")]
        placements = np.where(
            positive[order], *(each if run is None else each[run] for each in (below, above))
        )
        mine = np.bincount(groups, weights=placements, minlength=groups_left_out)
        won[1:] += _won_inside(scores[inner], positive[inner], predictions.groups[inner], downs) - mine
    return _ratio(won, ups * downs)


def _won_inside(
    scores: Floats, positive: NDArray[np.bool_], group: Labels, downs: Floats
) -> NDArray[np.float64]:
    """(G,) pairs within each group that the positive wins; patches are sorted by group, then by score."""
    up, down, run = _runs(scores, positive, group)
    if run is not None:
        group = group[np.flatnonzero(np.diff(run, prepend=-1))]
    own = downs[0] - downs[1:]
    # Negatives below in the own group only; a tie is half a pair.
    below = np.cumsum(down) - down / 2 - (np.cumsum(own) - own)[group]
    return np.bincount(group, weights=up * below, minlength=len(own)).astype(np.float64)


def _runs(
    scores: Floats, positive: NDArray[np.bool_], group: Labels | None
) -> tuple[Floats, Floats, Labels | None]:
    """Positives and negatives of each run of equal scores (in one group), and the run (N,) of each patch.

    None for the last where every patch is a run of its own, as it nearly always is.
    """
    ends = scores[1:] != scores[:-1]
    if group is not None:
        ends |= group[1:] != group[:-1]
    up = positive.astype(np.float64)
    if ends.all():
        return up, 1 - up, None
    run = np.concatenate([[0], np.cumsum(ends)])
    ups: Floats = np.bincount(run, weights=up).astype(np.float64)
    return ups, np.bincount(run) - ups, run


def _ece(predictions: Predictions) -> Floats:
    """Sum over bins of the patches times |confidence - accuracy|, over all patches."""
    return _ratio(np.abs(_gaps(predictions)).sum(axis=1), predictions.counts)


def _gaps(predictions: Predictions) -> Floats:
    """Sums of confidence - correct in each bin of confidence, (1 + G, 15)."""
    confidence = predictions.probabilities.max(axis=1)
    bins = np.minimum((confidence * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    return predictions.sums_of(bins, _ECE_BINS, confidence - predictions.correct)


def _ece_excess(predictions: Predictions) -> tuple[float, float]:
    """By how much the calibration error is likely too high, and at most: a sum that is noise has a size.

    The mean of |x + noise| exceeds |x| for a normal noise of the jackknife's deviation, in each bin at the
    |x| whose mean square is what was seen (after Kumar, Liang & Ma 2019, arXiv:1909.10155, whose bias is that
    at the sum itself: half as much where all is noise). At most it is that of sums which are noise alone.
    """
    from scipy.special import ndtr

    gaps, groups = _gaps(predictions), predictions.group_count
    spread = np.sqrt((groups - 1) / groups * ((gaps[1:] - gaps[1:].mean(axis=0)) ** 2).sum(axis=0))
    noisy = spread > 0
    seen = np.abs(gaps[0][noisy]) / spread[noisy]
    size = np.sqrt(np.maximum(0, seen**2 - 2 / np.pi))
    # The mean of a folded normal of that size and deviation 1, less the size.
    excess = np.sqrt(2 / np.pi) * np.exp(-(size**2) / 2) - 2 * size * ndtr(-size)
    likely, most = (excess * spread[noisy]).sum(), np.sqrt(2 / np.pi) * spread.sum()
    return float(likely / predictions.counts[0]), float(most / predictions.counts[0])


def _ratio(above: Floats, below: Floats) -> Floats:
    # No warning for 0 / 0, which is a plain "undefined" here.
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _mean_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


# A new figure is a function and a line here: files, reports and intervals have it from then on, in order.
_TABLE: tuple[Metric, ...] = (
    Metric(name="accuracy", compute=_accuracy, curve="patch accuracy"),
    Metric(
        name="balanced_accuracy",
        compute=lambda predictions: _mean_defined(predictions.per_class[0]),
        by_class=True,
    ),
    Metric(
        name="macro_f1", compute=lambda predictions: _mean_defined(predictions.per_class[1]), by_class=True
    ),
    Metric(name="auroc", compute=_auroc, curve="AUROC", by_class=True),
    Metric(
        name="loss",
        compute=_loss,
        curve="loss per patch",
        scale="log",
        most=-math.log(_LEAST_PROBABILITY),
    ),
    Metric(name="ece", compute=_ece, scale="log", least_groups=20, excess=_ece_excess),
)
_BY_NAME = {metric.name: metric for metric in _TABLE}
METRICS = tuple(_BY_NAME)
CURVES = {metric.name: metric.curve for metric in _TABLE if metric.curve}
"""Titles of the metrics that are drawn as curves."""
