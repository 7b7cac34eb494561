"""All figures of one set of predictions, per patch, per image and per patient, ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.guessing import against_guessing
from wsitool.evaluation.intervals import Interval, Jackknife
from wsitool.evaluation.labels import Labelled
from wsitool.evaluation.metrics import confusion_matrix, score

__all__ = ["evaluate", "interval_figures", "mean_by"]

Floats = NDArray[np.float64]


def evaluate(
    logits: Floats,
    patches: Labelled,
    *,
    temperature: float | Floats = 1.0,
    seed: int = 0,
    counted: str = "patches",
) -> dict[str, Any]:
    """Judge logits (N, K): metrics, intervals over groups, confusion, and the same by image and by group.

    `guessing` comes first: what the figures are beside always answering one class and ranking by chance.

    `no_interval` says of each figure without one why; `ece_corrected` is what the interval of the calibration
    error is around.

    `calibrated` repeats loss and calibration error with the logits divided by `temperature`: one number, or
    (N,), as the classifiers of folds have one each. `counted` is what the N are.
    """
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    # (N, 1) or (1, 1), so that folds may have a temperature each.
    scaled = logits / np.reshape(temperature, (-1, 1))
    calibrated = score(softmax(scaled), patches.labels)
    confusion = confusion_matrix(patches.labels, predicted, len(patches.classes))
    guessing = against_guessing(
        [probabilities], patches.labels, patches.group_index, patches.classes, seed=seed
    )
    return {
        "guessing": guessing.to_dict(),
        **score(probabilities, patches.labels),
        counted: len(patches),
        **interval_figures(probabilities, patches.labels, patches.group_index),
        "confusion": confusion.tolist(),
        "calibrated": {
            "temperature": float(np.mean(temperature)),
            "loss": calibrated["loss"],
            "ece": calibrated["ece"],
        },
        "images": _by(probabilities, patches, patches.images),
        "groups": _by(probabilities, patches, patches.groups),
    }


def interval_figures(
    probabilities: Floats, labels: NDArray[np.integer], groups: NDArray[np.integer]
) -> dict[str, Any]:
    """The part of `evaluate` that is about intervals: `probabilities` (N, K), `labels` and `groups` (N,)."""
    jackknife = Jackknife.of([probabilities], labels, groups)
    intervals = jackknife.intervals()
    return {
        "intervals": {name: _pair(interval) for name, interval in intervals.items()},
        "interval_groups": jackknife.patients.count,
        "no_interval": jackknife.reasons(),
        "ece_corrected": None if intervals["ece"] is None else intervals["ece"].value,
    }


def mean_by(
    probabilities: Floats, labels: NDArray[np.int64], names: NDArray[np.str_]
) -> tuple[NDArray[np.str_], Floats, NDArray[np.int64]]:
    """Mean probability of each name whose patches share one label: names (M,), means (M, K), labels (M,).

    `probabilities` (N, K), `labels` and `names` (N,). Names come sorted; those whose patches have several
    labels are left out.
    """
    unique_names, index = np.unique(names, return_inverse=True)
    sums = np.zeros((len(unique_names), probabilities.shape[1]))
    # Unbuffered, as an index comes many times: `sums[index] += ...` would add once.
    np.add.at(sums, index, probabilities)
    lowest = np.full(len(unique_names), np.iinfo(np.int64).max)
    # Lowest and highest label of each name: equal where all its patches agree.
    highest = np.full(len(unique_names), -1, np.int64)
    np.minimum.at(lowest, index, labels)
    np.maximum.at(highest, index, labels)
    pure = lowest == highest
    means = sums / np.bincount(index)[:, None]
    return unique_names[pure], means[pure], lowest[pure]


def _by(probabilities: Floats, patches: Labelled, names: NDArray[np.str_]) -> dict[str, Any] | None:
    """Metrics of the mean probability per name; None where every name has patches of several classes."""
    unique_names, means, labels = mean_by(probabilities, patches.labels, names)
    if len(unique_names) == 0:
        return None
    mixed = len(np.unique(names)) - len(unique_names)
    return {**score(means, labels), "count": len(unique_names), "left_out_as_mixed": mixed}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
