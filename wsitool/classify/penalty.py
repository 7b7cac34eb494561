"""The penalty of the linear head, chosen by cross-validation over the groups of the training subset alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.classify.heads import PENALTIES, head_logits, linear_path
from wsitool.errors import LabelError
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.metrics import score
from wsitool.store.options import SplitBy
from wsitool.store.splits import patch_folds, whole_folds

__all__ = ["PenaltySearch", "search_penalty"]

_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class PenaltySearch:
    """What was tried: `losses` (log-loss per held-out patch) by penalty C, and the best of them, `c`.

    `logits` (N, K) are those of every patch by the fold that had not seen it, with `c`. `warning` is for the
    user, or "".
    """

    c: float
    losses: dict[float, float]
    folds: int
    by: SplitBy
    logits: NDArray[np.float64]
    warning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For run.json and the facts of a cell."""
        losses = {f"{c:g}": round(loss, 6) for c, loss in self.losses.items()}
        return {"c": self.c, "losses": losses, "folds": self.folds, "by": self.by}


def search_penalty(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    classes: int,
    *,
    weighted: bool = False,
    split: SplitBy = "group",
    seed: int = 0,
) -> PenaltySearch:
    """Try each of `PENALTIES` on features (N, D) by at most 5 folds; lowest loss wins, ties the smallest C.

    No group is on both sides of a fold unless `split` is "patch", or the groups are too few for every class
    to be trained on in each fold, which `warning` says. LabelError if a class has a single patch.
    """
    fold_of, by = _folds(labels, groups, classes, split, seed)
    folds = int(fold_of.max()) + 1
    # (N, K) each: every row is filled once, by the fold that held it out.
    logits = {c: np.empty((len(labels), classes)) for c in PENALTIES}
    for fold in range(folds):
        inside, held_out = fold_of != fold, fold_of == fold
        path = linear_path(features[inside], labels[inside], classes, penalties=PENALTIES, weighted=weighted)
        for c, head in path:
            logits[c][held_out] = head_logits(head, features[held_out])
    losses = {c: score(softmax(logits[c]), labels)["loss"] or 0.0 for c in PENALTIES}
    # The first of the lowest: ties go to the stronger penalty.
    best = min(losses, key=lambda c: losses[c])
    warning = (
        ""
        if by == split
        else (
            "The labelled groups are too few to choose the penalty over whole groups, so it was chosen over "
            "patches and may be too weak."
        )
    )
    return PenaltySearch(c=best, losses=losses, folds=folds, by=by, logits=logits[best], warning=warning)


def _folds(
    labels: NDArray[np.integer], groups: NDArray[np.integer], classes: int, split: SplitBy, seed: int
) -> tuple[NDArray[np.int64], SplitBy]:
    """Each patch's fold: as many of whole groups as leave every class to train on, else of patches."""
    # Each of at most 5 folds must leave a patch of the rarest class to train on.
    rarest = int(np.bincount(labels, minlength=classes).min())
    if rarest < 2:
        raise LabelError(
            "--c auto needs at least 2 labels of every class: use a larger fraction, or give --c VALUE."
        )
    if split == "group":
        fold_of = whole_folds(labels, groups, classes=classes, most=_FOLDS, seed=seed)
        if fold_of is not None:
            return fold_of, "group"
    # The fallback leaks within groups and chooses too weak a penalty; the caller warns.
    return patch_folds(labels, folds=min(_FOLDS, rarest), seed=seed), "patch"
