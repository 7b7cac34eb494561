"""How good predictions are: the figures of the paper's table 2 and those it leaves out.

Everything is computed for many weightings of the patches at once, which is what a bootstrap needs: one row of
weights counts every patch once, the others count groups as a resample drew them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["CURVES", "METRICS", "Metric", "Predictions", "confusion_matrix", "score", "weighted_scores"]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
_ECE_BINS = 15
# A patch of probability 0 costs 27.6, not infinity.
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Probabilities (N, K) of patches with `labels` (N,), and B weightings of them, `weights` (B, N) >= 0."""

    probabilities: Floats
    labels: Labels
    weights: Floats

    @cached_property
    def predicted(self) -> Labels:
        """(N,) the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def correct(self) -> Floats:
        """(N,) 1 where that is the label."""
        return np.asarray(self.predicted == self.labels, np.float64)

    @cached_property
    def total(self) -> Floats:
        """(B,) sums of the weights."""
        return np.asarray(self.weights.sum(axis=1))

    @cached_property
    def per_class(self) -> tuple[Floats, Floats]:
        """Recall and F1 of each class, (B, K); recall is NaN for an absent class, F1 for one never seen."""
        weights, classes = self.weights, range(self.probabilities.shape[1])
        true = np.stack([weights @ (self.labels == k) for k in classes], axis=1)
        predicted = np.stack([weights @ (self.predicted == k) for k in classes], axis=1)
        both = np.stack([weights @ ((self.labels == k) & (self.predicted == k)) for k in classes], axis=1)
        return _ratio(both, true), _ratio(2 * both, true + predicted)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure: `compute` gives (B,) values, NaN where the classes present do not define it.

    One with a `curve` title is drawn over the label fractions by `experiment`.
    """

    name: str
    compute: Callable[[Predictions], Floats]
    curve: str = ""


def score(probabilities: Floats, labels: Labels) -> dict[str, float | None]:
    """Judge probabilities (N, K) against labels (N,): one value for each of `METRICS`.

    `loss` is the mean negative log-likelihood per patch; `auroc` is macro one-vs-rest (for two classes that
    of the second); `ece` the expected calibration error of the top class in 15 equal bins (arXiv:1706.04599).
    A value that the classes present do not define is None.
    """
    values = weighted_scores(probabilities, labels, np.ones((1, len(labels))))
    return {name: None if np.isnan(row[0]) else float(row[0]) for name, row in values.items()}


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    # One number for each pair of classes, counted in one pass.
    flat = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def weighted_scores(probabilities: Floats, labels: Labels, weights: Floats) -> dict[str, Floats]:
    """All of `METRICS` for B weightings: weights (B, N) >= 0 -> arrays (B,), NaN where undefined."""
    predictions = Predictions(
        probabilities=np.asarray(probabilities, np.float64), labels=labels, weights=weights
    )
    return {metric.name: metric.compute(predictions) for metric in _TABLE}


def _loss(predictions: Predictions) -> Floats:
    p = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return np.asarray(predictions.weights @ -np.log(np.maximum(p, _LEAST_PROBABILITY)) / predictions.total)


def _accuracy(predictions: Predictions) -> Floats:
    return np.asarray(predictions.weights @ predictions.correct / predictions.total)


def _auroc(predictions: Predictions) -> Floats:
    p, labels = predictions.probabilities, predictions.labels
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    values = [_one_auroc(p[:, k], labels == k, predictions.weights) for k in classes]
    return _mean_defined(np.stack(values, axis=1))


def _one_auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """P(score of a positive > that of a negative) + half the ties, by one sort for all weightings."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # first of each run of equal scores
    # (B, runs of equal scores); reduceat sums from each start to the next.
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    # Negatives strictly below; half of those in the same run are added as ties.
    below = np.cumsum(down, axis=1) - down
    return _ratio((up * (below + down / 2)).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def _ece(predictions: Predictions) -> Floats:
    """Sum over bins of the weight times |confidence - accuracy|, over the whole weight."""
    confidence, weights = predictions.probabilities.max(axis=1), predictions.weights
    bins = np.minimum((confidence * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gap = confidence - predictions.correct
    sums = [np.abs(weights[:, bins == index] @ gap[bins == index]) for index in np.unique(bins)]
    return np.asarray(np.sum(sums, axis=0) / predictions.total)


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
    Metric(name="balanced_accuracy", compute=lambda predictions: _mean_defined(predictions.per_class[0])),
    Metric(name="macro_f1", compute=lambda predictions: _mean_defined(predictions.per_class[1])),
    Metric(name="auroc", compute=_auroc, curve="AUROC"),
    Metric(name="loss", compute=_loss, curve="loss per patch"),
    Metric(name="ece", compute=_ece),
)
METRICS = tuple(metric.name for metric in _TABLE)
CURVES = {metric.name: metric.curve for metric in _TABLE if metric.curve}
"""Titles of the metrics that are drawn as curves."""
