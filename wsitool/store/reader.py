"""Reading patches at disk speed: where each one's bytes are is known, so that a positional read fetches them.

No lock of h5py or zarr is held while reading: any number of threads read one store at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.urls import RemotePath
from wsitool.errors import CorruptStoreError
from wsitool.store import jpeg
from wsitool.store.attributes import Summary
from wsitool.store.columns import in_schema, problem_of_values, score_names
from wsitool.store.damage import damaged
from wsitool.store.files import KnownFile, open_files, read_fully
from wsitool.store.hashing import ContentHash, covers_attributes, patch_digest
from wsitool.store.indexing import IndexedPatches
from wsitool.store.layout import Layout, Segments, Tally
from wsitool.store.remote_files import read_at_once
from wsitool.store.schema import Candidates, Failure, StoreMeta

__all__ = ["Place", "Reader", "content_hash"]

Place = Callable[[bytes, NDArray[np.uint8], int], str]
"""(JPEG stream, its patch of the output, the row of that) -> "", or why the patch is bad."""


class Reader(IndexedPatches):
    """A finished store of either format, as `PatchStore` describes it.

    Safe to read from any number of threads. It holds no column but the labels in memory, and no file open but
    those that `open_files` lends; pickled, it is opened anew by whoever unpickles it. Each of the properties
    that return an array reads it from the disk and checks it: CorruptStoreError where its values cannot be.
    """

    streamed: ClassVar[bool] = False
    """Whether patches are cut from a slide as they are read."""

    def __init__(self, path: Path, meta: StoreMeta, summary: Summary, layout: Layout) -> None:
        self._path, self._meta, self._summary, self._layout = path, meta, summary, layout
        self._patch_bytes = meta.patch_size * meta.patch_size * 3

    @property
    def path(self) -> Path:
        return self._path

    def __fspath__(self) -> str:
        return os.fspath(self._path)

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network, where what is asked for together comes together."""
        return isinstance(self._path, RemotePath)

    @property
    def meta(self) -> StoreMeta:
        return self._meta

    @property
    def content_hash(self) -> str:
        return self._summary.content_hash

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._summary.counts)

    @property
    def psnr(self) -> float | None:
        return self._summary.psnr

    @property
    def note(self) -> str | None:
        return self._summary.note

    @property
    def failures(self) -> tuple[Failure, ...]:
        if "failures/coords" not in self._layout.columns:
            return ()
        coords, reasons = self._column("failures/coords"), self._column("failures/reason")
        return tuple(
            Failure(x0=int(x), y0=int(y), reason=str(reason))
            for (x, y), reason in zip(coords, reasons, strict=True)
        )

    @property
    def coords(self) -> NDArray[np.int64]:
        return self._column("coords")

    @property
    def tissue(self) -> NDArray[np.float32]:
        return self._column("tissue")

    # Kept, as collections, exports and summaries ask for them again; two bytes a patch.
    @cached_property
    def labels(self) -> NDArray[np.int16] | None:
        return self._column("label") if "label" in self._layout.columns else None

    @property
    def sources(self) -> NDArray[np.str_] | None:
        return self._column("source") if "source" in self._layout.columns else None

    @property
    def candidates(self) -> Candidates:
        x, y = self._column("candidates/x"), self._column("candidates/y")
        return Candidates(
            coords=np.stack([x, y], axis=1),
            tissue=self._column("candidates/tissue"),
            reason=self._column("candidates/reason"),
            reasons=self._layout.reasons,
            scores={name: self._column(f"candidates/{name}") for name in score_names(self._layout.columns)},
        )

    def _column(self, name: str) -> NDArray[Any]:
        """A column with its values checked, in the schema's dtype."""
        values = self._layout.column(name)
        problem = problem_of_values(name, values, self._meta, reasons=len(self._layout.reasons))
        if problem:
            raise damaged(self._path, problem)
        return in_schema(name, values)

    def __len__(self) -> int:
        return self._summary.patches

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        size = self._meta.patch_size
        out = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        self.read_into(indices, out)
        return out

    def read_into(
        self,
        indices: Sequence[int] | NDArray[np.integer[Any]],
        out: NDArray[np.uint8],
        *,
        rows: NDArray[np.int64] | None = None,
        tally: Tally | None = None,
        place: Place = jpeg.problem_of_decoding,
    ) -> None:
        """Read patches into `out[rows]` (all of `out` by default), C-contiguous (B, P, P, 3) uint8.

        With a `tally`, a patch that cannot be read or decoded is noted there as (row of `out`, reason)
        and its pixels are undefined; without one it raises CorruptStoreError. `place` gets the JPEG streams.
        """
        rows_asked = self._checked(indices)
        if not len(rows_asked):
            return
        targets = np.arange(len(rows_asked)) if rows is None else rows
        try:
            if self._meta.codec == "raw" and not self.is_remote:
                self._read_raw(rows_asked, out, targets, tally)
            else:
                # What comes over a network is put in its place afterwards.
                put = _put_pixels if self._meta.codec == "raw" else place
                self._read_encoded(rows_asked, out, targets, tally, put)
        except OSError as error:
            raise damaged(self._path, f"its patches cannot be read ({error.strerror})") from error

    def prefetch(self, rows: NDArray[np.integer[Any]]) -> None:
        """Say which patches will be read soon; of no use to a store, whose disk reads ahead itself."""

    def encoded(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[bytes]:
        """The stored bytes of patches: JPEG streams, or P*P*3 bytes of raw pixels.

        In the order asked, duplicates allowed. IndexError for a row that is not there, CorruptStoreError
        where the file ends early; what the bytes mean is not looked at.
        """
        rows_asked = self._checked(indices)
        try:
            # One entry a request and not a patch: the same patch may be asked for twice.
            fetched = dict(self._fetch(rows_asked))
        except OSError as error:
            raise damaged(self._path, f"its patches cannot be read ({error.strerror})") from error
        for row, data in fetched.items():
            if isinstance(data, str):
                raise self._corrupt(int(rows_asked[row]), data)
        return [fetched[row] for row in range(len(rows_asked))]  # type: ignore[misc]

    def problem_of_pixels(self) -> str:
        """Whether JPEG patches are of another size than the store says; "" where one of a few is right.

        From the headers of three patches, without decoding: one damaged patch is the business of who reads
        it, a wrong size of all would end in an error a patch.
        """
        if self._meta.codec == "raw":  # the format has seen to that
            return ""
        sizes = set()
        rows = np.unique([0, len(self) // 2, len(self) - 1]).astype(np.int64)
        with suppress(OSError):
            for _, data in self._fetch(rows):
                with suppress(ValueError):
                    sizes |= set() if isinstance(data, str) else {jpeg.size_of(data)}
        side = self._meta.patch_size
        if not sizes or (side, side) in sizes:
            return ""
        width, height = sizes.pop()
        return f"its patches are {width} x {height} px and not {side} x {side} px"

    def check(self) -> None:
        """Raise CorruptStoreError if a file of the store was deleted, replaced or changed since opening."""
        for file in self._layout.files:
            file.check()

    def close(self) -> None:
        """Give the descriptors back; reading again opens them again.

        Not needed for correctness: descriptors are few, shared, and closed when others need room.
        """
        for file in self._layout.files:
            if isinstance(file, KnownFile):
                open_files.forget(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size, codec = self._meta.patch_size, self._meta.codec
        return f"<store {self._path.name}: {len(self)} patches of {size} px, {codec}>"

    @property
    def facts(self) -> dict[str, object]:
        """What a notebook shows of it: the slide, its group and resolution, what became of the candidates."""
        meta = self._meta
        return {"slide": meta.name, "group": meta.group, "um/px": meta.mpp_effective, **self.counts}

    def _checked(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        rows_asked = np.asarray(indices, dtype=np.int64)
        if len(rows_asked) and not (rows_asked.min() >= 0 and rows_asked.max() < len(self)):
            raise IndexError(f"{self._path} has {len(self)} patches; index out of range in the request.")
        return rows_asked

    def _corrupt(self, index: int, reason: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self._path}: patch {index} cannot be read ({reason}): write the store again."
        )

    def _read_raw(
        self,
        rows_asked: NDArray[np.int64],
        out: NDArray[np.uint8],
        targets: NDArray[np.int64],
        tally: Tally | None,
    ) -> None:
        began = time.perf_counter()
        segments = self._layout.locate(rows_asked)
        # Pixels go from the file straight to their place in `out`: no intermediate buffer, no copy.
        flat = out.data.cast("B")
        size = self._patch_bytes
        rows = targets[segments.row]
        for file, begin, end in _runs_by_file(segments, rows):
            # lists, as taking numbers out of arrays one by one would cost as much as the reading
            columns = (begin, end, rows[begin] * size, rows[end - 1] * size + size, segments.start[begin])
            with open_files.lease(self._local(file)) as descriptor:
                for first, last, at, to, start in zip(*(column.tolist() for column in columns), strict=True):
                    # (S,) runs: a read a run, in the order of the request; first and last are segments, at
                    # and to bytes of `out`.
                    got = read_fully(descriptor, flat[at:to], start)
                    if got != to - at:
                        # What came whole before the end counts as read; the rest of the run is bad.
                        self._short(rows_asked, segments, targets, first + got // size, last, tally)
        if tally is not None:
            tally.read_seconds += time.perf_counter() - began
            tally.bytes_read += len(rows_asked) * size

    def _short(
        self,
        rows_asked: NDArray[np.int64],
        segments: Segments,
        targets: NDArray[np.int64],
        first: int,
        last: int,
        tally: Tally | None,
    ) -> None:
        reason = "the file ends before its bytes"
        if tally is None:
            raise self._corrupt(int(rows_asked[segments.row[first]]), reason)
        tally.bad += [(int(targets[segments.row[position]]), reason) for position in range(first, last)]

    def _read_encoded(
        self,
        rows_asked: NDArray[np.int64],
        out: NDArray[np.uint8],
        targets: NDArray[np.int64],
        tally: Tally | None,
        place: Place,
    ) -> None:
        began = time.perf_counter()
        # All encoded bytes of the request at once, so that reading and decoding can be told apart: a tenth of
        # the pixels they become.
        fetched = list(self._fetch(rows_asked))
        read = time.perf_counter()
        for row, data in fetched:
            reason = data if isinstance(data, str) else place(data, out[targets[row]], int(targets[row]))
            if reason and tally is None:
                raise self._corrupt(int(rows_asked[row]), reason)
            if reason and tally is not None:
                tally.bad.append((int(targets[row]), reason))
        if tally is not None:
            tally.read_seconds += read - began
            tally.decode_seconds += time.perf_counter() - read
            tally.bytes_read += sum(len(data) for _, data in fetched)

    def _fetch(self, rows_asked: NDArray[np.int64]) -> Iterator[tuple[int, bytes | str]]:
        """Yield (row, stored bytes), or (row, reason) where the file is too short, in some order."""
        segments = self._layout.locate(rows_asked)
        # A patch in several pieces arrives in the order of its pieces, as its segments follow each other.
        pieces: dict[int, list[bytes]] = {}
        short: set[int] = set()
        for row, length, data in self._stored(segments):
            pieces.setdefault(row, []).append(data)
            if len(data) != length:  # patches are far too small for a read to end early otherwise
                short.add(row)
        for row, parts in pieces.items():
            yield row, "the file ends before its bytes" if row in short else b"".join(parts)

    def _stored(self, segments: Segments) -> Iterator[tuple[int, int, bytes]]:
        """The row, length and bytes of each segment, those of one file in their order."""
        files = self._layout.files
        if self.is_remote:
            rows, numbers = segments.row.tolist(), segments.file.tolist()
            starts, lengths = segments.start.tolist(), segments.length.tolist()
            asked = [
                (files[f], start, length) for f, start, length in zip(numbers, starts, lengths, strict=True)
            ]
            yield from zip(rows, lengths, read_at_once(asked), strict=True)
            return
        for file in np.unique(segments.file).tolist():
            in_file = np.flatnonzero(segments.file == file)
            columns = (segments.row[in_file], segments.start[in_file], segments.length[in_file])
            with open_files.lease(self._local(file)) as descriptor:
                for row, start, length in zip(*(column.tolist() for column in columns), strict=True):
                    # By position: descriptors are shared, and a file has one position for all threads.
                    yield row, length, os.pread(descriptor, length, start)

    def _local(self, number: int) -> KnownFile:
        file = self._layout.files[number]
        assert isinstance(file, KnownFile)
        return file


def _put_pixels(data: bytes, out: NDArray[np.uint8], _: int) -> str:
    out.reshape(-1)[:] = np.frombuffer(data, np.uint8)
    return ""


def _runs_by_file(
    segments: Segments, targets: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Runs of segments that lie side by side both in one file and in the output: one read serves each."""
    if not len(segments.start):
        return
    breaks = (
        (np.diff(segments.file) != 0)
        | (np.diff(segments.start) != segments.length[:-1])
        | (np.diff(targets) != 1)
    )
    # (R,) first and one-past-last segment of each run.
    begin = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    end = np.append(begin[1:], len(segments.start))
    run_file = segments.file[begin]
    for file in np.unique(run_file).tolist():
        in_file = run_file == file
        yield file, begin[in_file], end[in_file]


def content_hash(store: Reader) -> str:
    """Compute the content hash of what is on disk by the rule of `store.content_hash`, to compare the two.

    Reads every patch, 256 at a time. CorruptStoreError where one is not there.
    """
    hashing = ContentHash(store.meta if covers_attributes(store.content_hash) else None)
    # 256 at a time: 38 MB of raw patches of 224 px, however large the store.
    for first in range(0, len(store), 256):
        patches = store.encoded(range(first, min(first + 256, len(store))))
        hashing.add_patches(patches, map(patch_digest, patches))
    sources = store.sources
    hashing.add_rows(store.coords, store.labels, None if sources is None else sources.tolist())
    return hashing.hexdigest()
