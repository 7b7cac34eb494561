"""What a classifier says of a whole slide, and when it should say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError

__all__ = ["UNCERTAIN", "Verdict", "VerdictRule", "as_probability", "as_share"]

UNCERTAIN = "uncertain"
_LEAST_MEAN = 0.5
_ROUNDING = 1e-9  # 0.6 - 0.4 is less than 0.2 in floats


@dataclass(frozen=True, kw_only=True)
class VerdictRule:
    """A slide is called the class of highest mean probability over its patches, or "uncertain".

    Uncertain is one whose class has a mean below 0.5 or less than `lead` above the next class, or is not the
    class most patches are called, or whose patches are fewer than `least_patches`.
    """

    lead: float = 0.2
    least_patches: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.lead <= 1:
            raise UsageError(f"--least-lead must be from 0 to 1, got {self.lead:g}.")
        if self.least_patches < 1:
            raise UsageError(f"--least-patches must be at least 1, got {self.least_patches}.")

    def sentence(self, *, whole: bool = False) -> str:
        """The rule in words: for slides judged by patches or, with `whole`, by a classifier of slides."""
        mean, other = ("", "") if whole else ("mean ", "where most patches are called another class, ")
        return (
            f"A slide is called the class of highest {mean}probability; uncertain is one where that is below "
            f"{_LEAST_MEAN:g} or leads the next by less than {self.lead:g}, {other}or where there are fewer "
            f"than {self.least_patches} patches."
        )

    def judge(
        self,
        probabilities: NDArray[np.float64],
        classes: Sequence[str],
        *,
        doubts: Sequence[str] = (),
        whole: NDArray[np.float64] | None = None,
    ) -> Verdict:
        """The verdict on patches of `probabilities` (N, K); `doubts` are reasons that hold for any slide.

        A classifier of slides has probabilities `whole` (K,) that take the place of the mean: what most
        patches would be called by themselves then counts for nothing. At least two classes and one patch.
        Deterministic; ties go to the class that comes first.
        """
        mean = probabilities.mean(axis=0) if whole is None else whole
        word = "mean probability" if whole is None else "probability"
        counts = np.bincount(probabilities.argmax(axis=1), minlength=len(classes))
        # Of equal means the class that comes first in the classifier's order.
        first, second = np.argsort(-mean, kind="stable")[:2]
        most = int(counts.argmax())
        reasons = list(doubts)
        if len(probabilities) < self.least_patches:
            reasons.append(f"{_patches(len(probabilities))}, fewer than {self.least_patches}")
        if mean[first] - mean[second] < self.lead - _ROUNDING:
            reasons.append(
                f"{word} of {classes[first]} {as_probability(mean[first])} is less than "
                f"{self.lead:g} above that of {classes[second]}, {as_probability(mean[second])}"
            )
        elif mean[first] < _LEAST_MEAN - _ROUNDING:
            reasons.append(
                f"{word} of {classes[first]} {as_probability(mean[first])} is below {_LEAST_MEAN:g}"
            )
        # By the most probable class; means and calls may disagree where a few patches are very sure.
        if whole is None and counts[first] < counts[most]:
            reasons.append(
                f"most patches are called {classes[most]} ({as_share(counts[most], counts.sum())})"
            )
        return Verdict(
            leading=classes[first],
            # Six digits, as in summary.csv, so that a result read back is the same.
            share=round(float(counts[first] / counts.sum()), 6),
            mean_probability=round(float(mean[first]), 6),
            reasons=tuple(reasons),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`leading` is the class of highest mean probability; it is the verdict where there are no `reasons`.

    `share` is that of the patches called `leading`, which says nothing of how sure each call is.
    """

    leading: str
    share: float
    mean_probability: float
    reasons: tuple[str, ...]

    @property
    def uncertain(self) -> bool:
        return bool(self.reasons)

    @property
    def verdict(self) -> str:
        """The class, or "uncertain"."""
        return UNCERTAIN if self.uncertain else self.leading

    @property
    def reason(self) -> str:
        """Why it is uncertain, or ""."""
        return "; ".join(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "uncertain": self.uncertain,
            "reasons": list(self.reasons),
            "most_probable": self.leading,
            "share": self.share,
            "mean_probability": self.mean_probability,
        }


def as_share(count: int, total: int) -> str:
    """Whole percent that are 0 % or 100 % only where it is none or all."""
    percent = round(100 * count / total)
    if percent == 100 and count < total:
        return "> 99 %"
    return "< 1 %" if percent == 0 and count else f"{percent} %"


def as_probability(value: float) -> str:
    """Two digits, and never 0 or 1: no probability of a network is that."""
    return "> 0.99" if value > 0.99 else "< 0.01" if value < 0.01 else f"{value:.2f}"


def _patches(count: int) -> str:
    return f"{count} patch{'' if count == 1 else 'es'}"
