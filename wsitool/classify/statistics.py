"""How sure a figure is: intervals and comparisons that resample patients, not patches.

Patches of one patient are alike, so resampling them one by one would claim far too much certainty
(cluster bootstrap: Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). With few groups (below about
20) percentile intervals are still somewhat too narrow; reports say how many groups there were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.classify.metrics import METRICS, weighted_scores

__all__ = ["Comparison", "Interval", "group_intervals", "paired_comparison"]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
RESAMPLES = 2000
_CELLS_AT_ONCE = 4_000_000  # 32 MB of weights


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval; `groups` says how many patients it rests on."""

    low: float
    high: float
    groups: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arm a minus arm b on the same patches: the difference, its 95 % interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    groups: int


def group_intervals(
    runs: Sequence[Floats],
    labels: Labels,
    groups: Labels,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval | None]:
    """Bootstrap interval of each metric over groups; the figure is the mean over `runs` (seeds).

    Each run is probabilities (N, K) for the same patches. None where there are fewer than two groups or the
    metric is undefined on most resamples.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(METRICS)
    drawn = _resampled(runs, labels, index, seed=seed, resamples=resamples)
    tail = (1 - level) / 2
    return {name: _interval(values, tail, len(names)) for name, values in drawn.items()}


def paired_comparison(
    a: Sequence[Floats],
    b: Sequence[Floats],
    labels: Labels,
    groups: Labels,
    *,
    metric: str = "accuracy",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison | None:
    """Compare two arms on the same patches: both are judged on the same resampled groups.

    The p-value is twice the smaller share of resamples on either side of zero (with the usual +1), so it is
    never below 2 / (resamples + 1). None where there are fewer than two groups.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    one = np.ones((1, len(labels)))
    mean_a, mean_b = (np.mean([weighted_scores(p, labels, one)[metric][0] for p in runs]) for runs in (a, b))
    drawn_a, drawn_b = (
        _resampled(runs, labels, index, seed=seed, resamples=resamples)[metric] for runs in (a, b)
    )
    gap = drawn_a - drawn_b
    gap = gap[~np.isnan(gap)]
    low, high = np.quantile(gap, (0.025, 0.975))
    side = min((gap <= 0).sum(), (gap >= 0).sum())
    return Comparison(
        difference=float(mean_a - mean_b),
        low=float(low),
        high=float(high),
        p_value=float(min(1.0, 2 * (side + 1) / (len(gap) + 1))),
        groups=len(names),
    )


def _resampled(
    runs: Sequence[Floats], labels: Labels, index: Labels, *, seed: int, resamples: int
) -> dict[str, Floats]:
    """Every metric on every resample, averaged over the runs: arrays (resamples,)."""
    parts: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for weights in _weights(index, seed, resamples):
        scores = [weighted_scores(p, labels, weights) for p in runs]
        for name in METRICS:
            parts[name].append(np.mean([values[name] for values in scores], axis=0))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _weights(index: Labels, seed: int, resamples: int) -> Iterator[Floats]:
    """Blocks (b, N) of how often each patch's group was drawn."""
    groups = int(index.max()) + 1
    rng = np.random.default_rng((seed, 0xB007))
    block = max(1, _CELLS_AT_ONCE // len(index))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=min(block, resamples - start))
        yield drawn[:, index].astype(np.float64)


def _interval(values: Floats, tail: float, groups: int) -> Interval | None:
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(low=float(low), high=float(high), groups=groups)
