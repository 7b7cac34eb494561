"""The HDF5 form of a store: one file that plain h5py reads.

Patches are chunks of one patch without filter (raw), or one byte string per patch in `encoded/blob` (jpeg).
`chunk_offsets` holds the place of every chunk in the file, as asking HDF5 for 150,000 of them takes long.
Here it is written; `hdf5_reading` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.base.direct_io import ALIGNMENT, PatchFile
from wsitool.store.attributes import Summary, coords_attributes, to_attributes
from wsitool.store.hdf5_reading import OFFSETS, chunk_offsets
from wsitool.store.schema import StoreMeta
from wsitool.store.writer import Columns, Writer

__all__ = ["Hdf5Writer"]

_BLOB_CHUNK = 1 << 16  # a few patches: small stores stay small, and plain h5py reads little in vain
_FIRST_ROWS = 64


class Hdf5Writer(Writer):
    """Writes a store as one HDF5 file.

    Of raw patches the pixels are written by a thread of their own (see `base.direct_io`); everything else,
    and the index, by h5py. For one thread.
    """

    def __init__(self, path: Path, meta: StoreMeta, *, overwrite: bool, expected: int = 0) -> None:
        super().__init__(path, meta, overwrite=overwrite)
        size = meta.patch_size
        # Patches of other lengths would leave a hole after each, and HDF5 looks through all of them for each.
        aligned = meta.codec == "raw" and size * size * 3 % ALIGNMENT == 0
        self._file = h5py.File(
            self._pending.temporary,
            "w",
            # HDF5 puts every object of at least that size at a multiple of the interval, which is what direct
            # writing asks for.
            alignment_threshold=size * size * 3 if aligned else 1,
            alignment_interval=ALIGNMENT if aligned else 1,
        )
        self._raw: _RawChunks | None = None
        if meta.codec == "raw":
            self._raw = _RawChunks(
                self._file, self._pending.temporary, (size, size, 3), expected, aligned=aligned
            )
            self._data = self._raw.data
        else:
            self._data = self._file.create_dataset(
                "encoded/blob",
                shape=(0,),
                maxshape=(None,),
                chunks=(_BLOB_CHUNK,),
                dtype=np.uint8,
                # HDF5 would write zeros into each chunk before the data.
                fill_time="never",
            )
        # Ends of the patches in the blob, a leading 0 before them: N + 1 numbers for N patches.
        self._ends: list[int] = [0]
        self._tail = bytearray()

    def _write_patches(self, patches: Sequence[bytes | memoryview]) -> None:
        if self._raw is not None:
            self._raw.append(patches)
            return
        for patch in patches:
            # Patches run on over the edges of chunks: padding each to a chunk of its own would multiply the
            # file.
            self._tail += patch
            self._ends.append(self._ends[-1] + len(patch))
        while len(self._tail) >= _BLOB_CHUNK:
            self._write_blob_chunk(bytes(self._tail[:_BLOB_CHUNK]))
            del self._tail[:_BLOB_CHUNK]

    def _write_blob_chunk(self, chunk: bytes) -> None:
        at = self._data.shape[0]
        self._data.resize(at + _BLOB_CHUNK, axis=0)
        # Past HDF5's own copying and conversion: the bytes of a chunk without filter are those of the file.
        self._data.id.write_direct_chunk((at,), chunk)

    def _write_columns(self, columns: Columns, summary: Summary) -> None:
        if self._raw is not None:
            offsets = self._raw.finish()
        else:
            if self._tail:
                # Chunks are stored whole; the shape, cut in the next line, says where the patches end.
                self._write_blob_chunk(bytes(self._tail).ljust(_BLOB_CHUNK, b"\0"))
            self._data.resize(self._ends[-1], axis=0)
            # uint64 as documented for other readers; ours checks for wraps.
            self._file["encoded/offsets"] = np.array(self._ends, dtype=np.uint64)
            offsets = chunk_offsets(self._data)
        for name, array in columns.arrays().items():
            self._file[name] = array
        for name, texts in columns.texts().items():
            self._file.create_dataset(name, data=list(texts), dtype=h5py.string_dtype())
        self._file["candidates/reason"].attrs["reasons"] = list(columns.candidates.reasons)
        if "label" in self._file:
            self._file["label"].attrs["classes"] = list(self._meta.classes)
        # The folder under the final name, not the temporary one.
        self._file["coords"].attrs.update(
            coords_attributes(self._meta, self._pending.final.parent.absolute())
        )
        self._file[OFFSETS] = offsets
        self._file.attrs.update(to_attributes(self._meta, summary))

    def _close(self) -> None:
        try:
            # The thread that writes pixels ends before HDF5 closes the file under it.
            if self._raw is not None:
                self._raw.close()
        finally:
            self._file.close()


class _RawChunks:
    """The dataset `patches`: HDF5 gives out the places in the file, the pixels are written there directly.

    HDF5 would write them under Python's global lock and stop the threads that decode meanwhile.
    """

    def __init__(
        self, file: h5py.File, path: Path, shape: tuple[int, int, int], expected: int, *, aligned: bool
    ) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        # One patch a chunk, so that chunk k of HDF5's index is patch k.
        plist.set_chunk((1, *shape))
        # Never filled, and given a place as soon as the dataset grows: `chunk_offsets` knows the places
        # before a byte is written.
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((0, *shape), (h5py.h5s.UNLIMITED, *shape))
        self.data: Any = h5py.Dataset(
            h5py.h5d.create(file.id, b"patches", h5py.h5t.STD_U8LE, space, dcpl=plist)
        )
        self._length = int(np.prod(shape))
        self._offsets = np.empty(0, np.int64)
        self._rows, self._expected = 0, expected
        self._file = PatchFile(path, aligned=aligned)

    def append(self, patches: Sequence[bytes | memoryview]) -> None:
        stop = self._rows + len(patches)
        if stop > len(self._offsets):
            # HDF5 tells all places at once or slowly one by one: ask seldom, give back the rest in the end.
            # The file does not always shrink with it, hence `expected`.
            # Doubling keeps the number of times that HDF5 lists all places logarithmic in the number of
            # patches.
            more = 0 if stop <= self._expected else max(2 * len(self._offsets), _FIRST_ROWS)
            self.data.resize(max(stop, self._expected, more), axis=0)
            self._offsets = chunk_offsets(self.data)
        places = self._offsets[self._rows : stop]
        # Places that follow each other without a gap go into one call.
        edges = [0, *(np.flatnonzero(np.diff(places) != self._length) + 1).tolist(), len(patches)]
        for first, end in pairwise(edges):
            self._file.write(patches[first:end], int(places[first]))
        self._rows = stop

    def finish(self) -> NDArray[np.int64]:
        """Give back unused places; returns the (N,) byte offsets of the patches."""
        # First the index, then the wait: HDF5 only forgets the unused places, whose bytes nobody writes.
        self.data.resize(self._rows, axis=0)
        self._file.finish()
        return self._offsets[: self._rows]

    def close(self) -> None:
        """May be called twice."""
        self._file.close()
