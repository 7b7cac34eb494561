"""A folder that keeps features: a file for each store, so that whoever has the store finds them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file_in_parts
from wsitool.base.progress import SILENT, Reporter
from wsitool.store.collection import Collection

__all__ = ["FeatureCache"]

Features = NDArray[np.float32]


_ALONE = 256  # patches; of a smaller store a batch or two would go nearly empty through the network


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A file of `count` rows, of which `rows` are those of the collection at `places`."""

    path: Path
    places: NDArray[np.int64]
    rows: NDArray[np.integer[Any]]
    count: int


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

    def features(
        self, collection: Collection, compute: Callable[[Collection], Features], reporter: Reporter = SILENT
    ) -> Features:
        """(N, width) of every patch of `collection`, in its order; `compute` makes what is in no file.

        Stores of which the collection has every patch are kept for others; of the parts of stores that it has
        otherwise, all together in one file. What goes through the network together, and so how it is rounded,
        does not depend on what is there: a large store goes alone, small ones all or not at all.
        """
        features = np.empty((len(collection), self.width), np.float32)
        missing = [unit for unit in self._units(collection, features) if not self._take(unit, features)]
        todo = sum(len(piece.places) for unit in missing for piece in unit)
        bar = reporter.task("features", total=todo, unit="patches") if len(missing) > 1 else nullcontext()
        with bar as task:
            for unit in missing:
                together = np.sort(np.concatenate([piece.places for piece in unit]))
                features[together] = compute(collection.subset(together))
                for piece in unit:
                    _write(piece.path, features[piece.places])
                if task is not None:
                    task.advance(len(together))
        return features

    def file(self, collection: Collection, compute: Callable[[Collection], Features]) -> Path:
        """The file of a collection that is one whole store; computed if it is not there."""
        path = self._of_store(collection, 0)
        if not self._is_made(path, len(collection)):
            _write(path, compute(collection))
        return path

    def kept(self, collection: Collection) -> Features | None:
        """What is there of a collection that is one whole store; None where nothing is."""
        return self._read(self._of_store(collection, 0), len(collection))

    def keep(self, collection: Collection, features: Features) -> None:
        """Keep (N, width) features of a collection that is one whole store."""
        _write(self._of_store(collection, 0), features)

    def _units(self, collection: Collection, features: Features) -> list[list[_Piece]]:
        """What is computed together; parts of stores whose files are all there are taken at once."""
        units, small, parts = [], [], []
        for number, places in collection.rows_by_store():
            rows, count = collection.row[places], len(collection.stores[number])
            piece = _Piece(path=self._of_store(collection, number), places=places, rows=rows, count=count)
            if not np.array_equal(rows, np.arange(count)):
                parts.append(piece)
            elif count >= _ALONE:
                units.append([piece])
            else:
                small.append(piece)
        if parts and not self._take(parts, features):
            places = np.sort(np.concatenate([piece.places for piece in parts]))
            path, count = self._path(collection.subset(places).fingerprint), len(places)
            units.append([_Piece(path=path, places=places, rows=np.arange(count), count=count)])
        return [*units, *([small] if small else [])]

    def _take(self, unit: Sequence[_Piece], features: Features) -> bool:
        """Whether all files of a unit are there; their rows are put where they belong."""
        for piece in unit:
            kept = self._read(piece.path, piece.count)
            if kept is None:
                return False
            features[piece.places] = kept[piece.rows]
        return True

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
