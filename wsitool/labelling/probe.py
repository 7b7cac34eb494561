"""What is learned from the answers: logistic regression on frozen features, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.intervals import Jackknife
from wsitool.evaluation.metrics import score
from wsitool.store.splits import whole_folds

__all__ = ["Judgement", "Probe", "cross_validated", "fit_probe"]

Floats = NDArray[np.float32]
Labels = NDArray[np.integer]
_PENALTY = 0.01  # as in `classify/selection`: a strong one, as it has few labels
_AT_ONCE = 16384  # rows of features: what a product leaves beside it stays in the cache


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on raw features: `weight` (K, D), `bias` (K,) float32 of the `classes` it saw."""

    weight: Floats
    bias: Floats
    classes: NDArray[np.int64]

    def probabilities(self, features: Floats) -> NDArray[np.float64]:
        """(N, K) of features (N, D): the product in float32, what is made of it in float64."""
        return softmax((features @ self.weight.T + self.bias).astype(np.float64))

    def margins(self, features: Floats) -> Floats:
        """(N,) the lead of the most probable class over the next, of features (N, D): 0 is least sure."""
        margins = np.empty(len(features), np.float32)
        for first in range(0, len(features), _AT_ONCE):
            top = np.partition(self.probabilities(features[first : first + _AT_ONCE]), -2, axis=1)
            margins[first : first + _AT_ONCE] = top[:, -1] - top[:, -2]
        return margins


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Balanced accuracy on patients that were not trained on; low and high are its 95 % interval.

    They are None where `reason` says why. It is judged on `patches` of `patients`.
    """

    value: float
    low: float | None
    high: float | None
    reason: str
    patches: int
    patients: int


def fit_probe(features: Floats, labels: Labels) -> Probe | None:
    """The project's linear head on features (n, D) and labels (n,), each class of the same weight.

    Its calls are of classes that are equally frequent: how often each was labelled says what was asked for,
    and nothing of how often it is met. None where there is but one class.
    """
    # It brings torch, which labelling without a probe does without.
    from wsitool.classify.heads import linear_path, prior_shift

    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        return None
    [(_, layer)] = linear_path(features, numbers, len(classes), penalties=[_PENALTY], weighted=True)
    # The head gives each class its share of the labels back, which is taken again.
    bias = layer.bias.detach() - prior_shift(numbers, len(classes))
    return Probe(weight=layer.weight.detach().numpy(), bias=bias.numpy(), classes=classes.astype(np.int64))


def cross_validated(
    features: Floats, labels: Labels, groups: Labels, *, judged: NDArray[np.bool_], seed: int
) -> Judgement | str:
    """How good the probe is on patients it has not seen: features (n, D), labels and groups (n,).

    Every patch is in a fold with all of its patient; those `judged` (n,) count, all train. Where it cannot be
    said, why.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        return "labels of two classes at least are needed"
    folds = whole_folds(numbers, groups, classes=len(classes), seed=seed)
    if folds is None:
        return "every class needs labels of at least two patients"
    if not judged.any():
        return "none of the labelled patches was drawn by chance"
    probabilities = np.empty((len(labels), len(classes)))
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        probe = fit_probe(features[inside], numbers[inside])
        assert probe is not None, "each fold trains on every class"
        probabilities[outside] = probe.probabilities(features[outside])
    p, truth, patients = probabilities[judged], numbers[judged], groups[judged]
    value = score(p, truth)["balanced_accuracy"]
    jackknife = Jackknife.of([p], truth, patients)
    interval = jackknife.interval("balanced_accuracy")
    return Judgement(
        value=float(value or 0.0),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        reason="" if interval is not None else jackknife.reason("balanced_accuracy"),
        patches=len(truth),
        patients=len(np.unique(patients)),
    )
