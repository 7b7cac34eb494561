"""How good predictions are: the figures of the paper's table 2 and those it leaves out.

Everything is computed for many weightings of the patches at once, which is what a bootstrap needs: one row of
weights counts every patch once, the others count groups as a resample drew them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "confusion_matrix", "score", "weighted_scores"]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
METRICS = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
_ECE_BINS = 15
# A patch of probability 0 costs 27.6, not infinity.
_LEAST_PROBABILITY = 1e-12


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
    """All of `METRICS` for B weightings: weights (B, N) >= 0 -> arrays (B,), NaN where undefined.

    `probabilities` (N, K), `labels` (N,). Memory is that of a few arrays of B x N.
    """
    p = np.asarray(probabilities, np.float64)
    predicted = p.argmax(axis=1)
    # (N,) float: products with weights (B, N) give all B figures in one multiplication of matrices.
    hit = (predicted == labels).astype(np.float64)
    nll = -np.log(np.maximum(p[np.arange(len(labels)), labels], _LEAST_PROBABILITY))
    total = weights.sum(axis=1)
    recall, f1 = _per_class(labels, predicted, weights, p.shape[1])
    return {
        "loss": weights @ nll / total,
        "accuracy": weights @ hit / total,
        # Over classes that are defined, so that a resample without a class has the mean of the others.
        "balanced_accuracy": _mean_defined(recall),
        "macro_f1": _mean_defined(f1),
        "auroc": _auroc(p, labels, weights),
        "ece": _ece(p.max(axis=1), hit, weights) / total,
    }


def _per_class(labels: Labels, predicted: Labels, weights: Floats, classes: int) -> tuple[Floats, Floats]:
    """Recall and F1 of each class, (B, K); recall is NaN for an absent class, F1 for one never seen."""
    # (B, K) weight of each class's patches, of those predicted so, and of both.
    true = np.stack([weights @ (labels == k) for k in range(classes)], axis=1)
    predicted_weight = np.stack([weights @ (predicted == k) for k in range(classes)], axis=1)
    both = np.stack([weights @ ((labels == k) & (predicted == k)) for k in range(classes)], axis=1)
    return _ratio(both, true), _ratio(2 * both, true + predicted_weight)


def _auroc(p: Floats, labels: Labels, weights: Floats) -> Floats:
    # Of two classes the second: one-vs-rest of the first is the same number.
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    return _mean_defined(np.stack([_one_auroc(p[:, k], labels == k, weights) for k in classes], axis=1))


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


def _ece(confidence: Floats, hit: Floats, weights: Floats) -> Floats:
    """Sum over bins of |confidence - accuracy| x weight; the caller divides by the whole weight."""
    # A confidence of 1 belongs to the last bin.
    bins = np.minimum((confidence * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gap = confidence - hit
    # Empty bins have no gap and are not visited.
    sums = [np.abs(weights[:, bins == index] @ gap[bins == index]) for index in np.unique(bins)]
    total: Floats = np.sum(sums, axis=0)
    return total


def _ratio(above: Floats, below: Floats) -> Floats:
    # No warning for 0 / 0, which is a plain "undefined" here.
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _mean_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
