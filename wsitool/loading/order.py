"""Which patch is read when: an order from (seed, epoch), cut into steps and shared among ranks.

Everything is a function of its arguments, so that a run can stop after any batch and go on with the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError

__all__ = ["Balance", "BatchPlan", "Order", "Sampling", "balanced_order", "shuffled_order"]

Balance = Literal["patches", "slides"]

_BLOCKS_AT_ONCE = 16
_LARGEST_TABLE = 2**22
"""Patches up to which an order is a table; of more it would take memory and, each epoch, seconds to make."""


class Order(Protocol):
    """A permutation of range(n), or draws from it, of which parts are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice, /) -> NDArray[np.int64]: ...


class _Permutation:
    """A permutation of range(n) whose every value is computed when it is asked for, and in no other memory.

    A Feistel network (Luby & Rackoff 1988, doi:10.1137/0217022) is a permutation of the numbers of an even
    number of bits whatever its round function; a value beyond n is sent through again until it is below, so
    that those below n are permuted among themselves. At most four numbers in five are sent again.
    """

    _ROUNDS = 6

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self._n = n
        self._half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.default_rng([seed, epoch]).integers(2**63, size=self._ROUNDS, dtype=np.uint64)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, positions: slice, /) -> NDArray[np.int64]:
        values = self._permuted(np.arange(*positions.indices(self._n), dtype=np.uint64))
        while len(beyond := np.flatnonzero(values >= self._n)):
            values[beyond] = self._permuted(values[beyond])
        return values.astype(np.int64)

    def _permuted(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014, doi:10.1145/2660193.2660195); overflow is meant."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shuffled_order(n: int, *, seed: int, epoch: int, block: int | None = None) -> Order:
    """A permutation of range(n) from (seed, epoch): a table, or a function where that would be too long.

    With `block`, runs of that many neighbours are permuted and patches only shuffled within 16 such runs: a
    slow disk then reads near places together, at the price of a weaker shuffle.
    """
    # Both numbers as entropy: seed + epoch would make run 1's epoch 0 equal run 0's epoch 1.
    rng = np.random.default_rng([seed, epoch])
    if block is None or block >= n:
        return rng.permutation(n) if n <= _LARGEST_TABLE else _Permutation(n, seed, epoch)
    # The last block may be short: positions beyond the end fall out below.
    starts = rng.permutation(-(-n // block)) * block
    order = (starts[:, None] + np.arange(block)).reshape(-1)
    order = order[order < n]
    window = block * _BLOCKS_AT_ONCE
    for first in range(0, n, window):
        rng.shuffle(order[first : first + window])
    return order


def balanced_order(store_index: NDArray[np.int32], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """As many draws as patches, every store drawn equally often (to one draw), whatever its size.

    Within a store no patch comes twice before all have come once. A small store's patches come more often
    than once an epoch and a large store's not all: sampling uniform over slides, not an exact cover.
    """
    rng = np.random.default_rng([seed, epoch])
    n = len(store_index)
    by_store = np.argsort(store_index, kind="stable")
    members = np.split(by_store, np.flatnonzero(np.diff(store_index[by_store])) + 1)
    share, rest = divmod(n, len(members))
    # Which stores get the one draw more changes from epoch to epoch.
    extra = set(rng.permutation(len(members))[:rest].tolist())
    draws = [_repeat(rows, share + (number in extra), rng) for number, rows in enumerate(members)]
    # Shuffled once more over all stores: `draws` are store by store.
    return rng.permutation(np.concatenate(draws))


def _repeat(rows: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-number // len(rows))
    # `or` for a store without draws: numpy concatenates no empty list.
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)] or [rows[:0]])[:number]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """In which order an epoch takes its patches.

    With `shuffle` in one that depends on (seed, epoch) only, in runs of `block` neighbours where that is
    given (for network disks); `balance` "slides" draws every store equally often. `drop_last` leaves out the
    patches that fill no whole batch.
    """

    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    balance: Balance = "patches"
    block: int | None = None

    def order(self, store_index: NDArray[np.int32], epoch: int) -> Order:
        """Indices (N,) in the order of `epoch`; `store_index` (N,) is the store of each patch."""
        if not self.shuffle:
            # Neither shuffled nor balanced: for encoding and predicting, row for row.
            return np.arange(len(store_index))
        if self.balance == "slides":
            return balanced_order(store_index, seed=self.seed, epoch=epoch)
        return shuffled_order(len(store_index), seed=self.seed, epoch=epoch, block=self.block)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How `n` positions of an order become steps of up to `batch_size` patches on each of `world_size` ranks.

    Every position is in exactly one batch of one rank, and every rank has as many steps. Where the rest of
    the division would leave a rank fewer than `least` patches, the last two steps are divided anew (of
    batches below 4, the last takes the rest in), as batch normalisation cannot train on one (unless ranks
    normalise together). With `drop_last` the rest is left out.
    """

    n: int
    batch_size: int
    world_size: int = 1
    drop_last: bool = False
    least: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1:
            raise UsageError(
                f"The batch size and the number of ranks must be at least 1, got {self.batch_size} "
                f"and {self.world_size}."
            )
        # Each rank needs `least`, or one where the batch itself is one.
        need = self.world_size * (self.batch_size if self.drop_last else min(self.least, self.batch_size))
        if self.n < need:
            raise UsageError(
                f"{self.n} patches are too few for {self.world_size} rank(s) with batches of "
                f"{self.batch_size}: at least {need} are needed; "
                "use fewer ranks, a smaller batch, or more patches."
            )

    @property
    def _step_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def _rest_is_too_small(self) -> bool:
        full, rest = divmod(self.n, self._step_size)
        return not self.drop_last and full > 0 and 0 < rest < self._least_step

    @property
    def _least_step(self) -> int:
        return min(self.least, self.batch_size) * self.world_size

    @property
    def largest_batch(self) -> int:
        """Upper bound of a batch: `batch_size`, or two more where that is below 4 and takes a rest in."""
        # Below 4, half of a batch and a rest can be fewer than two on some rank, so the batch takes the rest
        # in.
        return self.batch_size if self.batch_size >= 4 else self.batch_size + 2

    def __len__(self) -> int:
        """Steps per epoch, the same on every rank."""
        full, rest = divmod(self.n, self._step_size)
        if self.drop_last or rest == 0 or (self._rest_is_too_small and self.batch_size < 4):
            return full
        return full + 1

    def _bounds(self, step: int) -> tuple[int, int]:
        begin, end = step * self._step_size, (step + 1) * self._step_size
        if not self.drop_last and step == len(self) - 1:
            # Where the rest was too small for a step of its own and batches are below 4, this last step is
            # the longer one.
            end = self.n
        if self._rest_is_too_small and self.batch_size >= 4:  # the last two steps share what is left
            middle = ((len(self) - 2) * self._step_size + self.n) // 2
            if step == len(self) - 2:
                end = middle
            elif step == len(self) - 1:
                begin = middle
        return begin, end

    def positions(self, step: int, rank: int) -> slice:
        """The part of the order that `rank` reads in `step`; the parts differ in length by at most one."""
        # Whole divisions of the bounds: no gap, no overlap, whatever the remainder.
        begin, end = self._bounds(step)
        return slice(
            begin + (end - begin) * rank // self.world_size,
            begin + (end - begin) * (rank + 1) // self.world_size,
        )
