"""Patches by `[...]` and one after another, alike for a store and a collection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.pictures import card
from wsitool.store.contact_sheet import sheet_of

__all__ = ["IndexedPatches"]

Index = int | np.integer[Any] | slice | Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]
_AHEAD_BYTES = 32 * 2**20  # of patches that iteration reads at once


class IndexedPatches(ABC):
    """A sequence of N patches that are read when they are asked for; derived classes say `read`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]: ...

    def __getitem__(self, index: Index) -> NDArray[np.uint8]:
        """One patch (P, P, 3) uint8 by a number, (B, P, P, 3) by a slice, a list of numbers or a mask (N,).

        Numbers below 0 count from the end. IndexError where one is out of range.
        """
        if isinstance(index, slice):
            return self.read(np.arange(*index.indices(len(self))))
        picked = np.asarray(index)
        if picked.dtype == bool:
            if picked.shape != (len(self),):
                raise IndexError(f"A mask of {len(self)} patches needs that shape, got {picked.shape}.")
            return self.read(np.flatnonzero(picked))
        if picked.size == 0:
            return self.read([])
        if picked.ndim > 1 or not np.issubdtype(picked.dtype, np.integer):
            raise IndexError(f"Patches are asked for by a number, a slice, a list or a mask, got {index!r}.")
        if picked.min() < -len(self) or picked.max() >= len(self):
            raise IndexError(f"There are {len(self)} patches, got {index!r}.")
        rows = np.where(picked < 0, picked + len(self), picked)
        return self.read(rows) if picked.ndim else self.read([int(rows)])[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every patch in order, (P, P, 3) uint8; read some at a time."""
        size = self[:1].nbytes
        step = max(1, _AHEAD_BYTES // max(1, size))
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    @property
    def facts(self) -> dict[str, object]:
        """What a notebook shows of it, by name."""
        return {"patches": f"{len(self):,}"}

    def _repr_html_(self) -> str:
        return card(repr(self).strip("<>"), self.facts, sheet_of(self))
