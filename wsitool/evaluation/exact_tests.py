"""Is a figure better than guessing? Exact tests over patients, not patches.

All arrangements are gone through where they can be, else 9,999 drawn ones with the usual +1 (Phipson & Smyth
2010, doi:10.2202/1544-6115.1585).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExactTest", "auroc_above_half", "mean_above_zero"]

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
_CELLS_AT_ONCE = 4_000_000  # 32 MB of labels
_DRAWN = 9_999
_MOST_FLIPPED = 20  # 2^20 sums are 8 MB
_MOST_ARRANGED = 20_000
# Of sums in floats that are equal on paper.
_TIE = 1e-9


@dataclass(frozen=True, kw_only=True)
class ExactTest:
    """A one-sided p-value, the least that so few groups could give, whether all arrangements were counted.

    Where `least` is not below the level asked for, no outcome could have passed: too few groups. `exact` is
    False where arrangements were drawn at random.
    """

    p_value: float
    least: float
    exact: bool


def mean_above_zero(differences: Floats, *, seed: int = 0) -> ExactTest:
    """Is the sum of per-group differences (G,) above zero? The sign-flip test of Fisher and Pitman.

    Under the null each difference is as likely to be its negative. Exact up to 20 groups that differ.
    """
    # A group without a difference is the same whichever sign it has: left out, it changes no p-value.
    values = differences[np.abs(differences) > _TIE]
    if exact := len(values) <= _MOST_FLIPPED:
        sums = np.zeros(1)
        # All 2^G sums by doubling: each value is added to, and taken from, all sums so far.
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    else:
        signs = np.random.default_rng((seed, 0xF11B)).choice((-1.0, 1.0), size=(_DRAWN, len(values)))
        sums = signs @ values
    # All groups, those left out as well: the least p-value is that of so many groups that all differ.
    return _test(sums, float(values.sum()), exact=exact, arrangements=2 ** len(differences))


def auroc_above_half(
    runs: Sequence[Floats], labels: Labels, groups: Labels, *, seed: int = 0
) -> ExactTest | None:
    """Is the macro one-vs-rest AUROC above .5? A permutation of labels over groups, not patches.

    All patches of one class in one group keep together. Labels are exchanged among the classes of a group
    that has several, and among the groups of one class (Winkler et al. 2015, on exchangeability blocks,
    doi:10.1016/j.neuroimage.2015.05.092). The statistic is `metrics.score`'s AUROC, the mean over `runs`.
    None where there is only one class.
    """
    classes: Labels = np.unique(labels)
    if len(classes) < 2:
        return None
    # Units: the patches of one class in one group, (U, 2) group and class.
    pairs, unit = np.unique(np.stack([groups, labels], axis=1), axis=0, return_inverse=True)
    unit = unit.reshape(-1)  # its shape differs between versions of numpy
    # (K, N); ranks stay when labels move, so an arrangement costs O(U) and not a sort.
    ranks = np.mean([[_midranks(p[:, k]) for k in classes] for p in runs], axis=0)
    sums = np.stack([np.bincount(unit, weights=row) for row in ranks], axis=1).astype(np.float64)  # (U, K)
    sizes = np.bincount(unit).astype(np.float64)
    observed = _arranged_auroc(pairs[None, :, 1], classes, sums, sizes)[0]
    strata = _strata(pairs[:, 0])
    # Python's integers: the number may have hundreds of digits.
    count = math.prod(_arrangements(pairs[stratum, 1]) for stratum in strata)
    exact = count <= _MOST_ARRANGED
    blocks = _every(pairs[:, 1], strata) if exact else _some(pairs[:, 1], strata, seed)
    drawn = np.concatenate([_arranged_auroc(block, classes, sums, sizes) for block in blocks])
    return _test(drawn, float(observed), exact=exact, arrangements=count)


def _test(drawn: Floats, observed: float, *, exact: bool, arrangements: int) -> ExactTest:
    # Ties count as reached, up to rounding.
    reached = int((drawn >= observed - _TIE).sum())
    # +1 for the observed arrangement itself: p is never 0.
    p_value = reached / len(drawn) if exact else (reached + 1) / (len(drawn) + 1)
    least = 1 / arrangements if exact else 1 / (len(drawn) + 1)
    return ExactTest(p_value=p_value, least=least, exact=exact)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, ties sharing the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def _strata(group: Labels) -> list[NDArray[np.int64]]:
    """Units between which labels may be exchanged: those of each mixed group, and all groups of one class."""
    _, index, counts = np.unique(group, return_inverse=True, return_counts=True)
    mixed = [np.flatnonzero(index == number) for number in np.flatnonzero(counts > 1)]
    pure = np.flatnonzero(counts[index] == 1)
    return [*mixed, pure] if len(pure) else mixed


def _arrangements(labels: Labels) -> int:
    counts = np.unique(labels, return_counts=True)[1].tolist()
    # A multinomial coefficient.
    return math.factorial(len(labels)) // math.prod(math.factorial(count) for count in counts)


def _every(labels: Labels, strata: Sequence[NDArray[np.int64]]) -> Iterator[Labels]:
    """All arrangements of `labels` (U,) within the strata, one block (B, U)."""
    rows = []
    for parts in itertools.product(*(_distinct(tuple(labels[stratum].tolist())) for stratum in strata)):
        row = labels.copy()
        for stratum, part in zip(strata, parts, strict=True):
            row[stratum] = part
        # At most 20,000 rows: `_MOST_ARRANGED` has been asked.
        rows.append(row)
    yield np.stack(rows)


def _distinct(labels: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(labels) <= 1:
        return [labels]
    arrangements = []
    # Equal labels first once: no arrangement comes twice.
    for first in dict.fromkeys(labels):
        at = labels.index(first)
        arrangements += [(first, *rest) for rest in _distinct(labels[:at] + labels[at + 1 :])]
    return arrangements


def _some(labels: Labels, strata: Sequence[NDArray[np.int64]], seed: int) -> Iterator[Labels]:
    """Blocks (b, U) of random arrangements of `labels` within the strata."""
    rng = np.random.default_rng((seed, 0xA11C))
    block = max(1, _CELLS_AT_ONCE // len(labels))
    for start in range(0, _DRAWN, block):
        rows = np.tile(labels, (min(block, _DRAWN - start), 1))
        for stratum in strata:
            # Each row by itself, within the stratum.
            rows[:, stratum] = rng.permuted(rows[:, stratum], axis=1)
        yield rows


def _arranged_auroc(arranged: Labels, classes: Labels, sums: Floats, sizes: Floats) -> Floats:
    """AUROC (B,) for the labels `arranged` (B, U) of units with rank sums (U, K) and sizes (U,)."""
    total = sizes.sum()
    values = []
    for column, label in enumerate(classes):
        # (B, U) membership; sizes and rank sums follow by one product each.
        mine = (arranged == label).astype(np.float64)
        count = mine @ sizes
        # The U statistic of Mann and Whitney over its largest value.
        values.append((mine @ sums[:, column] - count * (count + 1) / 2) / (count * (total - count)))
    result: Floats = np.mean(values, axis=0)
    return result
