"""What colours and edges alone make of the same labels: a network that is no better has learned color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.classify.cross_validation import ClassificationTask, all_parts
from wsitool.classify.heads import fit_linear, head_logits
from wsitool.classify.outputs import Part
from wsitool.classify.penalty import search_penalty
from wsitool.classify.settings import Settings
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.color import color_features
from wsitool.evaluation.intervals import Jackknife, compare
from wsitool.evaluation.labels import Labelled, LabelledPatches
from wsitool.evaluation.metrics import score

__all__ = ["baselines", "beside_color", "color_logits", "majority"]

Floats = NDArray[np.float32]
_PENALTY = 0.1  # where a class has a single patch, and nothing can be chosen by


def baselines(
    task: ClassificationTask,
    subset: LabelledPatches,
    rows: NDArray[np.int64],
    parts: Sequence[Part[LabelledPatches]],
) -> dict[str, Any]:
    """What stands beside a classifier in metrics.json: the most frequent class, and color.

    `parts` are those it is judged on, `subset` the labels it was given, of which `rows` were trained on. Of
    folds each has a color baseline of its own. "beaten" says whether the classifier's AUROC is shown to be
    above that of color.
    """
    judged = all_parts(parts)
    numbers = color_features(task.data.train.collection) if len(parts) > 1 else None
    logits = np.concatenate([_beside(task, subset, rows, part, numbers) for part in parts])
    return beside_color(judged, np.concatenate([part.logits for part in parts]), logits)


def majority(judged: Labelled) -> dict[str, Any]:
    """The most frequent class of what is judged, and how often answering it always would be right."""
    counts = np.bincount(judged.labels, minlength=len(judged.classes))
    return {"class": judged.classes[int(counts.argmax())], "accuracy": float(counts.max() / counts.sum())}


def beside_color(judged: Labelled, own: NDArray[np.float64], logits: NDArray[np.float64]) -> dict[str, Any]:
    """What `baselines` gives: a classifier's `own` logits (N, K) beside `logits` of colour alone."""
    color = score(softmax(logits), judged.labels)
    mine = [softmax(own)]
    a, b = (Jackknife.of(runs, judged.labels, judged.group_index) for runs in (mine, [softmax(logits)]))
    compared = compare(a, b, metric="auroc")
    beaten = compared.low is not None and compared.low > 0
    auroc = [score(mine[0], judged.labels)["auroc"], color["auroc"]]
    both = " against ".join("-" if value is None else f"{value:.3f}" for value in auroc)
    rest = "" if beaten else ": it has learned color, as far as these data can show"
    return {
        "majority": majority(judged),
        "color": {**color, "beaten": beaten, "comparison": compared.to_dict()},
        "sentence": (
            f"It {'ranks better than' if beaten else 'is not shown to beat'} the color baseline (24 colour "
            f"and edge numbers, logistic regression): AUROC {both}{rest}."
        ),
    }


def _beside(
    task: ClassificationTask,
    subset: LabelledPatches,
    rows: NDArray[np.int64],
    part: Part[LabelledPatches],
    numbers: Floats | None,
) -> NDArray[np.float64]:
    """Color's logits for one part, trained on what the classifier that judged it had."""
    if numbers is None:
        train, judged = (
            color_features(subset.subset(rows).collection),
            color_features(part.patches.collection),
        )
        labelled = subset.subset(rows)
    else:
        everything = task.data.train
        outside = np.isin(everything.identities(), part.patches.identities())
        inside = np.flatnonzero(~outside)
        rows = task.rows(inside)
        labelled, train, judged = everything.subset(rows), numbers[rows], numbers[outside]
    return color_logits(
        train,
        labelled.labels,
        labelled.group_index,
        judged,
        len(labelled.classes),
        settings=task.settings,
        seed=task.seed,
    )


def color_logits(
    train: Floats,
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    judged: Floats,
    classes: int,
    *,
    settings: Settings,
    seed: int,
) -> NDArray[np.float64]:
    """Logits (M, K) of `judged` (M, 24) by a logistic regression on `train` (N, 24), labels and groups (N,).

    Both are of `evaluation.color.color_numbers`. Of `settings` only balance and split count: its penalty is
    chosen by cross-validation over the groups trained on, as that of the linear head.
    """
    weighted, penalty = settings.balance == "weighted", _PENALTY
    if np.bincount(labels, minlength=classes).min() > 1:
        penalty = search_penalty(
            train, labels, groups, classes, weighted=weighted, split=settings.split, seed=seed
        ).c
    head, _ = fit_linear(train, labels, classes, penalties=[penalty], weighted=weighted)
    return head_logits(head, judged)
