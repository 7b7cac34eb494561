"""The patches of other slides whose features are nearest to those of one patch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import WsitoolError
from wsitool.store.opening import find_stores, open_store
from wsitool.viewer.library import Library, SlideEntry, feature_source

__all__ = ["features_of", "neighbours"]

_SHOWN = 12
_AT_ONCE = 8192


def features_of(slide: SlideEntry, library: Library) -> dict[str, Path]:
    """The files of `embed`, by the id of their group, that were made of the slide's store as it is now."""
    if slide.store is not None:
        with suppress(WsitoolError), open_store(slide.store) as store:
            return library.features_by_store.get((store.meta.name, store.content_hash), {})
    return {}


def neighbours(slide: SlideEntry, row: int, features: str, library: Library) -> list[dict[str, Any]]:
    """The twelve patches of other slides with the largest cosine similarity, the nearest first.

    `features` is the id of a group in which the slide has a file (see `features_of`). Its files are read in
    blocks, so memory does not grow with the collection. WsitoolError where there is no such file or row, or
    a file cannot be read.
    """
    own = features_of(slide, library).get(features)
    if own is None:
        raise WsitoolError(f"There are no features of '{slide.name}' as it is now: run `wsitool embed`.")
    best: list[tuple[float, Path, int]] = []
    try:
        with h5py.File(own, "r") as file:
            data = file["features"]
            if not 0 <= row < len(data):
                raise WsitoolError(f"'{own.name}' has features of {len(data)} patches, and no row {row}.")
            wanted = _unit(np.asarray(data[row], np.float32)[None])[0]
        for path in find_stores(library.groups[features].path):
            if path != own:
                best = _merged(best, [(float(s), path, n) for s, n in _nearest(path, wanted)])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WsitoolError(
            f"The features beside '{own.name}' cannot be read ({error}): run embed again."
        ) from None
    made_from = {path: feature_source(path) for path in {path for _, path, _ in best}}
    slides = {path: library.slide_of_store(*source) for path, source in made_from.items()}
    return [
        {
            "slide": None if (entry := slides[path]) is None else entry.id,
            "name": made_from[path][0],
            "content_hash": made_from[path][1],
            "row": number,
            "similarity": similarity,
        }
        for similarity, path, number in best
    ]


def _merged(
    best: list[tuple[float, Path, int]], more: list[tuple[float, Path, int]]
) -> list[tuple[float, Path, int]]:
    return sorted([*best, *more], key=lambda one: -one[0])[:_SHOWN]


def _nearest(path: Path, wanted: NDArray[np.float32]) -> Iterator[tuple[float, int]]:
    """(similarity, row) of the nearest rows of a file, of each block its own."""
    with h5py.File(path, "r") as file:
        data = file["features"]
        if data.shape[1] != len(wanted):
            raise ValueError(f"'{path.name}' is of another encoder")
        for first in range(0, len(data), _AT_ONCE):
            similarity = _unit(np.asarray(data[first : first + _AT_ONCE], np.float32)) @ wanted
            for number in np.argsort(-similarity)[:_SHOWN].tolist():
                yield similarity[number], first + number


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, F) of length one; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return unit
