"""Which candidates limits reject, and for which reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.slides.spec import KEPT, Limit

__all__ = ["decide", "rejects"]


def decide(
    scores: Mapping[str, NDArray[np.float32]], limits: Sequence[Limit]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The first reason to reject each candidate: (M,) uint8 indexing the reasons returned, 0 is "kept".

    `limits` are tried in order; one whose score is absent is an error of the caller (KeyError).
    """
    # 0 is kept; limits may share a reason.
    reasons = (KEPT, *dict.fromkeys(limit.reason for limit in limits))
    reason = np.zeros(len(next(iter(scores.values()))), np.uint8)
    for limit in limits:
        # Only those no earlier limit has rejected.
        reason[(reason == 0) & rejects(limit, scores[limit.score])] = reasons.index(limit.reason)
    return reason, reasons


def rejects(limit: Limit, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(M,) scores to (M,) bool."""
    rejected = np.zeros(len(values), bool)
    with np.errstate(over="ignore"):  # a limit beyond float32 is infinite, and so it is meant
        if limit.at_least is not None:
            # NaN is below and above nothing: a score that was not measured rejects no patch.
            rejected |= values < limit.at_least
        if limit.at_most is not None:
            rejected |= values > limit.at_most
    return rejected
