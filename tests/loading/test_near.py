"""Orders that keep squares of neighbours together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from patch_stores import patch_folder

from wsitool.errors import UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.near import Near
from wsitool.slides.spec import TileSpec
from wsitool.store import regions
from wsitool.store.collection import Collection, open_collection
from wsitool.store.regions import SQUARES_MIXED, region_bytes, region_side, regions_of
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slide


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """4096 patches of 16 px, 64 x 64, in squares of 4 x 4."""
    monkeypatch.setattr(regions, "_SIDE_PX", 64)
    slide = synthetic_slide(tmp_path / "s.svs", size=(1024, 1024), levels=(1,))
    tile_slide(slide, tmp_path / "t", TileSpec(patch_size=16, level=0, min_tissue=0))
    return open_collection(tmp_path / "t")


def test_squares_are_of_one_weight_and_follow_from_the_grid(grid: Collection) -> None:
    store = grid.stores[0]
    numbers = regions_of(store.coords, store.meta)
    places = store.coords // 16 // 4
    assert np.array_equal(numbers, places[:, 1] * 16 + places[:, 0])
    assert set(np.bincount(numbers)) == {16} and region_bytes(16) == 16 * 16 * 16 * 3


@pytest.mark.parametrize("size", [1, 16, 64, 224, 256, 300, 512, 1024, 4096])
def test_a_square_takes_the_same_memory_whatever_the_patches(size: int) -> None:
    assert region_side(224) == 16 and 20e6 < region_bytes(size) < 51e6
    assert region_side(size) * size <= max(3584, size)


def test_an_order_is_a_permutation_of_seed_and_epoch(grid: Collection) -> None:
    near = Near(grid)
    orders = [near.order(seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert np.array_equal(orders[0], Near(grid).order(seed=0, epoch=0))
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(4096))
    assert len({tuple(order[:50].tolist()) for order in orders}) == 3


def test_few_squares_are_in_use_at_a_time_and_batches_mix_them(grid: Collection) -> None:
    square = regions_of(grid.stores[0].coords, grid.stores[0].meta)[Near(grid).order(seed=0, epoch=0)]
    first = np.array([np.flatnonzero(square == number)[0] for number in range(256)])
    last = np.array([np.flatnonzero(square == number)[-1] for number in range(256)])
    in_use = [int(((first <= place) & (last >= place)).sum()) for place in range(0, 4096, 64)]
    # A square's patches are spread over those of 16 others; first and last of 16 draws lie a little closer.
    assert max(in_use) <= SQUARES_MIXED + 3 and np.median(in_use) >= SQUARES_MIXED - 4
    mixed = [len(set(square[place : place + 64].tolist())) for place in range(256, 3500, 64)]
    assert min(mixed) >= 12
    assert (np.diff(Near(grid).order(seed=0, epoch=0)) == 1).mean() < 0.05


def test_a_part_of_a_collection_has_an_order_of_its_own(grid: Collection) -> None:
    part = grid.subset(np.arange(100, 1100))
    assert np.array_equal(np.sort(Near(part).order(seed=0, epoch=3)), np.arange(1000))


def test_a_loader_goes_on_in_the_same_order_only(tmp_path: Path) -> None:
    collection = open_collection(patch_folder(tmp_path / "k", each=40))
    near = Near(collection)
    whole = PatchLoader(collection, batch_size=8, near=near)
    batches = [batch.indices.tolist() for batch in whole]
    assert sorted(index for batch in batches for index in batch) == list(range(80)) and batches[0] != list(
        range(8)
    )
    begun = iter(PatchLoader(collection, batch_size=8, near=near))
    loader = PatchLoader(collection, batch_size=8, near=near)
    assert next(begun).indices.tolist() == batches[0]
    state = loader.state_dict() | {"step": 1}
    loader.load_state_dict(state)
    assert [batch.indices.tolist() for batch in loader] == batches[1:]
    with pytest.raises(UsageError, match="near None, as it is now True"):
        loader.load_state_dict(PatchLoader(collection, batch_size=8).state_dict())
