"""A folder that keeps features: a file for each store, so that whoever has the store finds them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file_in_parts
from wsitool.store.collection import Collection

__all__ = ["FeatureCache"]

Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Features of `width` values in `folder`; `made_by` says all that decides them but the store.

    Each file is <key>.npy, (patches, width) float32 in the store's order, and its name hashes everything that
    decides its values: a changed encoder, store or stain norm cannot meet an old file. Complete or not there,
    also with many writers.
    """

    folder: Path
    made_by: str
    width: int

    def features(self, collection: Collection, compute: Callable[[Collection], Features]) -> Features:
        """(N, width) of every patch of `collection`; what is in no file comes from one call of `compute`.

        Stores of which the collection has every patch are kept for others; of the parts of stores that it has
        otherwise, all together in one file.
        """
        found: list[tuple[NDArray[np.int64], Features]] = []
        whole: list[tuple[Path, NDArray[np.int64]]] = []
        parts: list[NDArray[np.int64]] = []
        for number, places in collection.rows_by_store():
            path, count = self._of_store(collection, number), len(collection.stores[number])
            rows = collection.row[places]
            if (kept := self._read(path, count)) is not None:
                found.append((places, kept[rows]))
            elif np.array_equal(rows, np.arange(count)):
                whole.append((path, places))
            else:
                parts.append(places)
        if parts:
            places = np.sort(np.concatenate(parts))
            path = self._path(collection.subset(places).fingerprint)
            if (kept := self._read(path, len(places))) is not None:
                found.append((places, kept))
            else:
                whole.append((path, places))
        return self._joined(collection, found, whole, compute)

    def file(self, collection: Collection, compute: Callable[[Collection], Features]) -> Path:
        """The file of a collection that is one whole store; computed if it is not there."""
        path = self._of_store(collection, 0)
        if not self._is_made(path, len(collection)):
            _write(path, compute(collection))
        return path

    def _joined(
        self,
        collection: Collection,
        found: list[tuple[NDArray[np.int64], Features]],
        missing: list[tuple[Path, NDArray[np.int64]]],
        compute: Callable[[Collection], Features],
    ) -> Features:
        if not missing:
            features = np.empty((len(collection), self.width), np.float32)
        elif not found:
            features = compute(collection)
        else:
            features = np.empty((len(collection), self.width), np.float32)
            places = np.sort(np.concatenate([places for _, places in missing]))
            features[places] = compute(collection.subset(places))
        for path, places in missing:
            _write(path, features[places])
        for places, kept in found:
            features[places] = kept
        return features

    def _of_store(self, collection: Collection, number: int) -> Path:
        stain = "" if collection.stain is None else collection.stain.keys[number]
        return self._path(f"{collection.stores[number].content_hash}:{stain}")

    def _path(self, content: str) -> Path:
        key = hashlib.sha256(f"{self.made_by}:{content}".encode()).hexdigest()
        return self.folder / f"features-{key[:32]}.npy"

    def _read(self, path: Path, rows: int) -> Features | None:
        """What is in a file; None if there is none, or it is damaged and to be written anew."""
        try:
            with path.open("rb") as file:
                # No pickles: a cache folder may be shared.
                kept: Features = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        # Damage that keeps the shape, such as zeroed pages, is not found; NaN is.
        return kept if self._fits(kept, rows) and np.isfinite(kept).all() else None

    def _is_made(self, path: Path, rows: int) -> bool:
        """As `_read`, by the header alone."""
        try:
            return self._fits(np.load(path, mmap_mode="r", allow_pickle=False), rows)
        except (OSError, ValueError, EOFError):
            return False

    def _fits(self, kept: Features, rows: int) -> bool:
        return bool(kept.shape == (rows, self.width) and kept.dtype == np.float32)


def _write(path: Path, features: Features) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(features))
    # The array as it lies in memory: a copy of a large slide's would take as much again.
    replace_file_in_parts(path, (header.getvalue(), features.data.cast("B")))
