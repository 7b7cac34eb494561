"""Orders and their division among ranks."""

from __future__ import annotations

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
