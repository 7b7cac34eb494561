"""Is a classifier better than guessing? Asked first, as no other figure means anything where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.exact_tests import auroc_above_half, mean_above_zero
from wsitool.evaluation.metrics import score

__all__ = ["LEVEL", "Guessing", "against_guessing", "as_p"]

Floats = NDArray[np.float64]
LEVEL = 0.025  # for each of two tests: together guessing passes at most once in twenty


@dataclass(frozen=True, kw_only=True)
class Guessing:
    """Accuracy against always answering the most frequent class of the test, AUROC against .5, over groups.

    `auroc` and `auroc_p` are None where only one class was judged. `exact` is False where arrangements were
    drawn. `too_few` means that no outcome on so few groups could have passed either test.
    """

    classes: int
    accuracy: float
    majority_class: str
    majority_share: float
    accuracy_p: float
    auroc: float | None
    auroc_p: float | None
    groups: int
    exact: bool
    too_few: bool

    @property
    def better_accuracy(self) -> bool:
        return self.accuracy_p < LEVEL

    @property
    def better_auroc(self) -> bool:
        return self.auroc_p is not None and self.auroc_p < LEVEL

    @property
    def better(self) -> bool:
        """Whether either test says that it is no guessing."""
        return self.better_accuracy or self.better_auroc

    @property
    def accuracy_untestable(self) -> bool:
        """Whether even all groups in favour would not pass the test of the accuracy."""
        # With all G groups in favour the sign-flip test gives 1 / 2^G.
        return 0.5**self.groups >= LEVEL

    def sentence(self) -> str:
        """What must be said before any figure; "" where both tests pass."""
        if self.better_accuracy and self.better_auroc:
            return ""
        # AUROC and majority need a second class.
        if self.auroc is None or self.auroc_p is None:
            return f"Cannot be told from guessing: all that was judged is '{self.majority_class}'."
        accuracy = (
            f"accuracy {self.accuracy:.3f} of {self.classes} classes, where always answering "
            f"'{self.majority_class}' gives {self.majority_share:.3f}"
        )
        tested = f"{accuracy} ({as_p(self.accuracy_p)})"
        auroc = f"AUROC {self.auroc:.3f}, where guessing gives 0.5 ({as_p(self.auroc_p)})"
        too_few = f"{self.groups} group{' is' if self.groups == 1 else 's are'} too few"
        if self.too_few:
            return f"Cannot be told from guessing: {too_few} for a test over patients; {accuracy}; {auroc}."
        if not self.better:
            return f"No better than guessing: {tested}; {auroc}."
        if self.better_accuracy:
            return f"Better than guessing in accuracy: {tested}; not in ranking: {auroc}."
        ranking = f"Better than guessing in ranking: {auroc}"
        if self.accuracy_untestable:
            return f"{ranking}; {too_few} to test the {accuracy}."
        return f"{ranking}; not in accuracy: {tested}."

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "better": self.better, "level": LEVEL, "sentence": self.sentence()}


def against_guessing(
    runs: Sequence[Floats],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> Guessing:
    """Test probabilities (N, K), one array per run (seed), on the same patches of integer `groups` (N,).

    `labels` (N,) index `classes`. Both tests are one-sided and over groups, not patches; `seed` decides where
    arrangements are drawn.
    """
    counts = np.bincount(labels, minlength=len(classes))
    majority = int(counts.argmax())
    scores = [score(p, labels) for p in runs]
    # (N,) share of the runs that got the patch right.
    hits = np.mean([p.argmax(axis=1) == labels for p in runs], axis=0)
    _, index = np.unique(groups, return_inverse=True)
    # (G,) patches right beyond those that the constant answer has right.
    gained = np.bincount(index, weights=hits - (labels == majority)).astype(np.float64)
    accuracy = mean_above_zero(gained, seed=seed)
    auroc = auroc_above_half(runs, labels, groups, seed=seed)
    # Undefined where a class is absent, and then in every run.
    ranking = [row["auroc"] for row in scores if row["auroc"] is not None]
    tests = [accuracy] if auroc is None else [accuracy, auroc]
    return Guessing(
        classes=len(classes),
        accuracy=float(hits.mean()),
        majority_class=classes[majority],
        majority_share=float(counts[majority] / len(labels)),
        accuracy_p=accuracy.p_value,
        auroc=None if auroc is None else float(np.mean(ranking)),
        auroc_p=None if auroc is None else auroc.p_value,
        groups=int(index.max()) + 1,
        exact=all(test.exact for test in tests),
        # Both: one test that could pass is enough to conclude something.
        too_few=all(test.least >= LEVEL for test in tests),
    )


def as_p(value: float) -> str:
    """A p-value in words: never "p = 0"."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
