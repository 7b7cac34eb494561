"""Orders and their division among ranks."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from wsitool.errors import UsageError
from wsitool.loading.order import BatchPlan, balanced_order, shuffled_order


@pytest.mark.parametrize("block", [None, 1, 7, 64, 5000])
def test_shuffle_is_a_permutation_of_seed_and_epoch(block: int | None) -> None:
    orders = [shuffled_order(1000, seed=s, epoch=e, block=block) for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert np.array_equal(orders[0], orders[1])
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[3])
    assert not np.array_equal(orders[2], orders[3])


def test_blocks_keep_near_places_near_and_still_shuffle() -> None:
    order = shuffled_order(10_000, seed=0, epoch=0, block=50)
    blocks_in_window = [len(set((order[i : i + 800] // 50).tolist())) for i in range(0, 10_000, 800)]
    assert max(blocks_in_window) <= 17
    assert len(set((order[:64] // 50).tolist())) > 8
    assert np.abs(np.diff(order[:100])).min() < 50
    assert (np.diff(order) == 1).mean() < 0.02


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_plan_covers_exactly(world_size: int, drop_last: bool) -> None:
    for n in range(16, 140):
        for batch_size in (1, 2, 5, 16):
            need = world_size * (batch_size if drop_last else min(2, batch_size))
            if n < need:
                with pytest.raises(UsageError, match="too few"):
                    BatchPlan(n=n, batch_size=batch_size, world_size=world_size, drop_last=drop_last)
                continue
            plan = BatchPlan(n=n, batch_size=batch_size, world_size=world_size, drop_last=drop_last)
            parts = [
                range(n)[plan.positions(step, rank)]
                for step in range(len(plan))
                for rank in range(world_size)
            ]
            seen = [position for part in parts for position in part]
            sizes = [len(part) for part in parts]
            covered = n // (batch_size * world_size) * batch_size * world_size if drop_last else n
            assert seen == list(range(covered)), (n, batch_size)
            assert max(sizes) <= plan.largest_batch <= max(batch_size, 5)
            assert min(sizes) >= min(2, batch_size), (n, batch_size, sizes)
            if drop_last:
                assert min(sizes) == batch_size


def test_slides_are_drawn_equally_often() -> None:
    store_index = np.repeat(np.arange(3, dtype=np.int32), [5, 100, 895])
    order = balanced_order(store_index, seed=0, epoch=0)
    assert len(order) == 1000
    assert sorted(Counter(store_index[order].tolist()).values()) == [333, 333, 334]
    small = Counter(order[order < 5].tolist())
    assert max(small.values()) - min(small.values()) <= 1
    assert max(Counter(order[order >= 105].tolist()).values()) == 1
    assert not np.array_equal(order, balanced_order(store_index, seed=0, epoch=1))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 65_537])
def test_an_order_too_long_for_a_table_is_a_permutation_too(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsitool.loading.order._LARGEST_TABLE", 0)
    whole = shuffled_order(n, seed=3, epoch=1)[:]
    assert len(shuffled_order(n, seed=3, epoch=1)) == n and whole.dtype == np.int64
    assert np.array_equal(np.sort(whole), np.arange(n))
    parts = [shuffled_order(n, seed=3, epoch=1)[first : first + 7] for first in range(0, n, 7)]
    assert np.array_equal(np.concatenate(parts), whole)  # the same whoever asks for what
    if n > 100:
        assert not np.array_equal(whole, shuffled_order(n, seed=3, epoch=2)[:])
        assert not np.array_equal(whole, shuffled_order(n, seed=4, epoch=1)[:])


def test_a_computed_order_looks_like_a_drawn_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsitool.loading.order._LARGEST_TABLE", 0)
    n = 200_000
    whole = shuffled_order(n, seed=1, epoch=0)[:]
    assert abs(np.corrcoef(np.arange(n), whole)[0, 1]) < 0.01
    assert abs(np.corrcoef(whole[:-1], whole[1:])[0, 1]) < 0.01
    counts = np.stack([np.histogram(part, 20, (0, n))[0] for part in np.split(whole, 100)])
    chi_square = ((counts - 100) ** 2 / 100).sum()  # 100 windows of 19 degrees of freedom
    assert 1900 - 250 < chi_square < 1900 + 250
    assert (
        0 < int((np.abs(np.diff(whole)) == 1).sum()) < 12
    )  # two neighbours follow each other twice by chance


def test_a_hundred_million_patches_cost_no_table() -> None:
    tracemalloc.start()
    try:
        asked = shuffled_order(10**8, seed=0, epoch=5)[10**7 : 10**7 + 256]
        assert len(set(asked.tolist())) == 256 and tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
