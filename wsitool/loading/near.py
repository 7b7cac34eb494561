"""An order in which neighbours come near each other: few squares of patches are in use at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.store.collection import Collection
from wsitool.store.regions import SQUARES_MIXED, region_side, regions_of

__all__ = ["Near"]


class Near:
    """Orders of a collection that take each square of neighbours in one go; 4 bytes a patch.

    The squares of all stores are shuffled. From its turn on a square's patches come one by one among those of
    about `SQUARES_MIXED` others, and after as many patches as these have all of it is used up: a disk reads
    near places together, and a slide that is streamed decodes its tiles once. The shuffle is weaker than one
    of all patches: a batch has more patches of one slide, the first ones of an epoch are of few squares.
    """

    def __init__(self, collection: Collection) -> None:
        self._region = np.zeros(len(collection), np.int32)
        first = 0
        for number, rows in collection.rows_by_store():
            store = collection.stores[number]
            regions = regions_of(store.coords, store.meta)
            self._region[rows] = first + regions[collection.row[rows]]
            first += int(regions.max(initial=-1)) + 1
        # Also of a part of a collection: without gaps.
        self._region = np.unique(self._region, return_inverse=True)[1].astype(np.int32)
        self._mixed = SQUARES_MIXED * region_side(collection.patch_size) ** 2

    def order(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Indices (N,) in the order of `epoch`, a function of the arguments and the collection."""
        rng = np.random.default_rng([seed, epoch])
        sizes = np.bincount(self._region)
        turns = rng.permutation(len(sizes))
        # Squares begin one after another, as many patches apart as they hold: each moment's pool of patches
        # is of one size, however ragged the tissue.
        begins = np.empty(len(sizes), np.float64)
        begins[turns] = np.cumsum(sizes[turns]) - sizes[turns]
        due = begins[self._region] + self._mixed * rng.random(len(self._region))
        return np.argsort(due, kind="stable")
