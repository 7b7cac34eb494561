"""Which patches lie beside each other in their image: found by their places on the grid, when asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError
from wsitool.store.collection import Collection

__all__ = ["Adjacent"]

# An image and two places in one whole number; a slide of a million pixels a side has fewer places.
_BITS = 21
_SAMPLE = 100_000  # patches of which the share with neighbours is told
_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


class Adjacent:
    """The eight patches around each patch of `collection`, as far as they are in it; 16 bytes a patch.

    Neighbours share an edge or a corner: where patches overlap, those between are passed over. `share` is the
    part of the patches that have one. UsageError for grids too large to number.
    """

    def __init__(self, collection: Collection) -> None:
        images = np.unique(collection.sources, return_inverse=True)[1].astype(np.int64)
        coords = np.zeros((len(collection), 2), np.int64)
        self._steps = np.ones(len(collection.stores), np.int64)
        for number, rows in collection.rows_by_store():
            store = collection.stores[number]
            meta = store.meta
            # Rounded: a stride between two levels' pixels is no whole number of level-0 ones.
            coords[rows] = np.rint(store.coords[collection.row[rows]] / meta.stride_level0)
            self._steps[number] = max(1, round(meta.patch_size_level0 / meta.stride_level0))
        self._store = collection.store_index
        # Images of one name in two stores are two; one to each side stays free, for neighbours of none.
        images = images * len(collection.stores) + collection.store_index
        images = np.unique(images, return_inverse=True)[1].astype(np.int64)
        limit = (1 << _BITS) - 2 * int(self._steps.max())
        if len(coords) and (coords.max() >= limit or images.max() >= 1 << _BITS):
            raise UsageError("The grids of these stores are too large for neighbours to be found.")
        places = coords + self._steps[self._store][:, None]
        self._keys = (images << 2 * _BITS) | (places[:, 1] << _BITS) | places[:, 0]
        self._order = np.argsort(self._keys)
        rows = np.linspace(0, len(coords) - 1, min(len(coords), _SAMPLE)).astype(np.int64)
        self.share = float((self._around(rows) >= 0).any(axis=1).mean())

    def _around(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices (n, 8) of the patches around, -1 where there is none."""
        steps = self._steps[self._store[indices]][:, None]
        offsets = np.array([(dy << _BITS) + dx for dy, dx in _AROUND], np.int64)
        asked = self._keys[indices][:, None] + steps * offsets
        near = np.searchsorted(self._keys, asked, sorter=self._order).clip(max=len(self._keys) - 1)
        rows = self._order[near]
        return np.where(self._keys[rows] == asked, rows, -1)

    def draw(self, indices: NDArray[np.int64], seed: tuple[int, ...]) -> NDArray[np.int64]:
        """One of the patches around each of `indices` (n,), each as likely; itself where there is none.

        A function of `seed` and the arguments.
        """
        around = self._around(indices)
        chance = np.random.default_rng(seed).random(around.shape)
        best = np.where(around >= 0, chance, -1.0).argmax(axis=1)
        drawn = around[np.arange(len(indices)), best]
        return np.where(drawn >= 0, drawn, indices)
