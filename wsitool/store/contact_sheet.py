"""Some patches of a store or collection side by side, for whoever looks at it in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsitool.base.pictures import sheet
from wsitool.errors import StoreError

__all__ = ["sheet_of"]

_PATCHES = 12


class _Patches(Protocol):
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]: ...


def sheet_of(patches: _Patches) -> list[NDArray[np.uint8]]:
    """One picture of twelve patches, evenly spaced; none where there are none or they cannot be read."""
    if not len(patches):
        return []
    # Evenly: neighbours are alike, and rows follow the slide from its top to its bottom.
    rows = np.unique(np.linspace(0, len(patches) - 1, _PATCHES).astype(np.int64))
    try:
        return [sheet(patches.read(rows))]
    except (StoreError, OSError):
        return []
