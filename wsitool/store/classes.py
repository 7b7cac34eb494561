"""Classes of several stores: one list for all, and labels that index it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.store.schema import UNLABELLED, StoreMeta

__all__ = ["renumbered", "union_of_classes"]


def union_of_classes(metas: Sequence[StoreMeta]) -> tuple[str, ...]:
    """The classes of several stores, each once, as first met; the place is a class's number in them all."""
    return tuple(dict.fromkeys(name for meta in metas for name in meta.classes))


def renumbered(
    labels: NDArray[np.int16], declared: Sequence[str], classes: Sequence[str]
) -> NDArray[np.int16]:
    """Labels that index the classes `declared` as ones that index `classes`; unlabelled ones stay so."""
    # the extra last entry maps -1 to -1
    new = np.array([*(classes.index(name) for name in declared), UNLABELLED], dtype=np.int16)
    return new[labels]
