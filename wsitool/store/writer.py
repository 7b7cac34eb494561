"""What both formats do alike while a store is written: check rows, encode, collect columns, hash, commit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.interrupt import deferred
from wsitool.errors import StoreError
from wsitool.store.attributes import Summary, plain_text
from wsitool.store.columns import (
    Found,
    Kind,
    in_schema,
    problem_of_columns,
    problem_of_reasons,
    problem_of_texts,
    problem_of_values,
)
from wsitool.store.files import Pending
from wsitool.store.hashing import ContentHash
from wsitool.store.preparing import prepare
from wsitool.store.schema import Candidates, Failure, Prepared, Rows, StoreMeta

__all__ = ["Columns", "Writer"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Everything but the patches, complete; names as in the schema."""

    coords: NDArray[np.int64]
    tissue: NDArray[np.float32]
    label: NDArray[np.int16] | None
    source: tuple[str, ...] | None
    candidates: Candidates
    failures: tuple[Failure, ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The numeric columns by schema name."""
        candidates = self.candidates
        arrays: dict[str, NDArray[Any]] = {
            "coords": self.coords,
            "tissue": self.tissue,
            "candidates/x": candidates.coords[:, 0],
            "candidates/y": candidates.coords[:, 1],
            "candidates/tissue": candidates.tissue,
            "candidates/reason": candidates.reason,
        }
        arrays |= {f"candidates/{name}": scores for name, scores in candidates.scores.items()}
        if self.label is not None:
            arrays["label"] = self.label
        if self.failures:
            arrays["failures/coords"] = np.array([(f.x0, f.y0) for f in self.failures], dtype=np.int64)
        return {name: in_schema(name, values) for name, values in arrays.items()}

    def texts(self) -> dict[str, tuple[str, ...]]:
        """The text columns by schema name."""
        texts = {} if self.source is None else {"source": self.source}
        if self.failures:
            texts["failures/reason"] = tuple(failure.reason for failure in self.failures)
        return texts

    def problem(self, meta: StoreMeta, summary: Summary) -> str:
        """What a reader would refuse in these columns; "" where they are as the schema wants them."""
        # The reader's own rules, so that nothing can be written that cannot be opened.
        arrays, reasons = self.arrays(), self.candidates.reasons
        kinds: dict[str, Kind] = {"i": "int", "u": "int", "f": "float"}
        forms = {name: Found(kinds[values.dtype.kind], values.shape) for name, values in arrays.items()}
        forms |= {name: Found("text", (len(texts),)) for name, texts in self.texts().items()}
        problems = [problem_of_columns(forms, meta, summary), problem_of_reasons(reasons)]
        problems += [
            problem_of_texts(name, len(texts), max(len(text.encode()) for text in texts))
            for name, texts in self.texts().items()
        ]
        problems += [
            problem_of_values(name, values, meta, reasons=len(reasons)) for name, values in arrays.items()
        ]
        return next(filter(None, problems), "")


class Writer(ABC):
    """A store being written; formats say how patches and columns reach the disk."""

    def __init__(self, path: Path, meta: StoreMeta, *, overwrite: bool) -> None:
        self._meta = meta
        self._pending = Pending(path, overwrite=overwrite)
        # Fed as rows come: the store is never read back to be hashed.
        self._hash = ContentHash(meta)
        # Columns stay in memory until `finish`, 22 bytes a patch beside the sources; the formats want each in
        # one piece.
        self._coords: list[NDArray[np.int64]] = []
        self._tissue: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int16]] = []
        self._sources: list[str] = []
        self._patches = 0

    @abstractmethod
    def _write_patches(self, patches: Sequence[bytes | memoryview]) -> None:
        """Append stored patches; `self._patches` is the row of the first."""

    @abstractmethod
    def _write_columns(self, columns: Columns, summary: Summary) -> None:
        """Write all the rest and close the files."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the files, complete or not; may be called twice."""

    def append(self, rows: Rows) -> None:
        """Append rows; StoreError if they do not fit the store or each other.

        `Prepared` patches must stay as they are until the next call, as they are written meanwhile.
        """
        self._check(rows)
        patches = rows.patches
        if isinstance(patches, np.ndarray):
            patches = patches.copy()  # the caller may fill it anew at once
        if not isinstance(patches, Prepared):
            meta = self._meta
            sampling = meta.subsampling or "420"
            patches = prepare(patches, codec=meta.codec, quality=meta.quality, sampling=sampling)
        # Written first: raw HDF5 patches go to the disk in a thread of their own while they are hashed here.
        self._write_patches(patches.data)
        self._hash.add_patches(patches.data, patches.digests)
        self._hash.add_rows(rows.coords, rows.labels, rows.sources)
        self._patches += len(patches)
        # Copies, as the caller may reuse its arrays.
        self._coords.append(np.array(rows.coords, dtype=np.int64))
        self._tissue.append(np.array(rows.tissue, dtype=np.float32))
        if rows.labels is not None:
            self._labels.append(np.array(rows.labels, dtype=np.int16))
        if rows.sources is not None:
            self._sources += rows.sources

    def finish(
        self,
        candidates: Candidates,
        *,
        counts: dict[str, int],
        failures: Sequence[Failure] = (),
        psnr: float | None = None,
        note: str | None = None,
    ) -> str:
        """Complete the store, make it durable, give it its name; returns the content hash."""
        if not self._patches:
            raise StoreError(
                f"{self._pending.final} would hold no patch: append at least one before finishing."
            )
        columns = Columns(
            coords=np.concatenate(self._coords),
            tissue=np.concatenate(self._tissue),
            label=np.concatenate(self._labels) if self._labels else None,
            source=tuple(self._sources) if self._sources else None,
            candidates=candidates,
            failures=tuple(failures),
        )
        # Before the columns are written, as the hash is one of the attributes.
        digest = self._hash.hexdigest()
        summary = Summary(
            patches=self._patches,
            counts=counts,
            content_hash=digest,
            psnr=psnr,
            note=plain_text(note) if note else None,
        )
        problem = columns.problem(self._meta, summary)
        if problem:
            raise StoreError(f"{self._pending.final} would not be a store that can be read again: {problem}.")
        with deferred():  # it is nearly done, and zarr's threads would write on after a signal
            self._write_columns(columns, summary)
            # Closed before `commit`, which syncs what is in the files and not what libraries still hold.
            self._close()
            self._pending.commit()
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        except (OSError, RuntimeError):  # h5py cannot flush to a full disk; what is left is removed anyway
            if error is None:
                raise
        finally:
            self._pending.discard()

    def _check(self, rows: Rows) -> None:
        size, number = self._meta.patch_size, len(rows.patches)
        if isinstance(rows.patches, np.ndarray) and (
            rows.patches.shape[1:] != (size, size, 3) or rows.patches.dtype != np.uint8
        ):
            raise StoreError(
                f"{self._pending.final} takes uint8 patches of shape (B, {size}, {size}, 3), "
                f"got {rows.patches.dtype} {rows.patches.shape}."
            )
        columns: dict[str, Sized | None] = {
            "coords": rows.coords,
            "tissue": rows.tissue,
            "labels": rows.labels,
            "sources": rows.sources,
        }
        for name, column in columns.items():
            if column is not None and len(column) != number:
                raise StoreError(f"{number} patches came with {len(column)} {name}: pass one for each patch.")
        for name, seen in (("labels", self._labels), ("sources", self._sources)):
            # Either always or never: a column with holes could not be told from a shifted one.
            if self._patches and (columns[name] is None) == bool(seen):
                raise StoreError(f"Some rows came with {name} and some without: pass {name} always or never.")
