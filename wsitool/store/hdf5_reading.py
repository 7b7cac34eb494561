"""Opening the HDF5 form of a store: every claim is checked against the file before anything is allocated.

Only what wsitool writes is read: hard links, no filters, nothing outside the file. A sample of the stored
places of the patches is compared with HDF5's own index each time, and a repacked file is indexed anew.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import CorruptStoreError, NotAStoreError
from wsitool.store.attributes import ATTRIBUTES, from_attributes
from wsitool.store.columns import FIXED, Found, Kind, problem_of_columns, problem_of_reasons, problem_of_texts
from wsitool.store.damage import as_corruption, damaged
from wsitool.store.files import KnownFile, open_files
from wsitool.store.foreign import hdf5_in_words, is_foreign
from wsitool.store.reader import Reader, Segments

__all__ = ["OFFSETS", "chunk_offsets", "open_hdf5"]

OFFSETS = "chunk_offsets"

# Ours has four columns and a few scores; every member is looked at.
_MOST_IN_GROUP = 100
# As much as HDF5 puts into an object's header; longer texts lie on a heap and count here with their
# reference.
_LARGEST_ATTRIBUTE = 1 << 16
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])  # a text's entry in its dataset
# By numpy's letters, their width aside: `in_schema` converts.
_KINDS: dict[str, Kind] = {"i": "int", "u": "int", "f": "float"}


def chunk_offsets(data: Any) -> NDArray[np.int64]:
    """Byte offset in the file of each chunk along axis 0, from HDF5's own index."""
    step = data.chunks[0]
    # -1 where HDF5 has no place for a chunk: it was never written.
    offsets = np.full(-(-data.shape[0] // step), -1, dtype=np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0] // step] = chunk.byte_offset

    data.id.chunk_iter(note)
    return offsets


def open_hdf5(path: Path) -> Reader:
    """Open an HDF5 store; CorruptStoreError if it is truncated or was rewritten in another layout.

    NotAStoreError where it is a sound file of another kind.
    """
    # Opening a pipe would wait for a writer for ever, opening a device may do anything.
    if not stat.S_ISREG(path.stat().st_mode):
        raise damaged(path, "it is no regular file")
    # Before HDF5 looks: if the file changes in between, the first read notices.
    file_state = KnownFile.of(path)
    with as_corruption(path, "the HDF5 file"), h5py.File(path, "r") as file:
        attributes = _attributes(path, file, ATTRIBUTES)
        # With our index in it the file is ours and lost its attributes: damaged, which is another advice.
        if is_foreign(attributes) and OFFSETS not in file:
            raise NotAStoreError(f"{path} is not a wsitool patch store but {hdf5_in_words(file)}.")
        meta, summary = from_attributes(path, attributes)
        # Order matters: columns are held against the attributes, patches against both.
        members = _Members(path, file, file_state.size)
        columns = members.columns()
        problem = problem_of_columns(columns, meta, summary)
        if problem:
            raise damaged(path, problem)
        reasons = _attributes(path, members.dataset("candidates/reason"), ("reasons",)).get("reasons")
        problem = problem_of_reasons(reasons)
        if problem:
            raise damaged(path, problem)
        places: _Places
        if meta.codec == "raw":
            side = meta.patch_size
            offsets = members.chunks("patches", (summary.patches, side, side, 3), (1, side, side, 3))
            places = _RawPlaces(offsets, side * side * 3)
        else:
            places = _jpeg_places(path, members, summary.patches)
    # The h5py file is closed here: from now on patches are read by position, columns by opening it anew.
    return Reader(path, meta, summary, _Layout(file_state, columns, tuple(reasons or ()), places))


def _jpeg_places(path: Path, members: _Members, patches: int) -> _JpegPlaces:
    if members.found("encoded/offsets") != Found("int", (patches + 1,)):
        raise damaged(path, f"'encoded/offsets' does not hold the places of {patches} patches")
    # (N + 1,): 8 bytes a patch are kept.
    ends = members.dataset("encoded/offsets")[:].astype(np.int64)  # a wrapped one is below its neighbour
    blob = members.dataset("encoded/blob")
    # Rising from 0: then its last entry bounds them all.
    if ends[0] != 0 or (np.diff(ends) < 0).any() or blob.ndim != 1 or ends[-1] > blob.shape[0]:
        raise damaged(path, "'encoded/offsets' does not fit its blob")
    step = (blob.chunks or (0,))[0]
    return _JpegPlaces(members.chunks("encoded/blob", blob.shape, (step,)), step, ends)


def _attributes(path: Path, item: Any, names: Iterable[str]) -> dict[str, Any]:
    """The attributes of `names` that `item` has, as Python's own values, lists of text included."""
    values: dict[str, Any] = {}
    for name in names:
        if not h5py.h5a.exists(item.id, name.encode()):
            continue
        attribute = item.attrs.get_id(name)
        # Sizes from the header, before h5py allocates for the value.
        if attribute.get_storage_size() > _LARGEST_ATTRIBUTE or attribute.shape is None:
            raise damaged(path, f"the attribute '{name}' is larger than any that wsitool writes")
        value = item.attrs[name]
        values[name] = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for text in values[name] if isinstance(values[name], list) else [values[name]]:
            if isinstance(text, str):
                text.encode()  # h5py hands out bytes that are no UTF-8 as halves of characters
    return values


class _Members:
    """The datasets of an open file, each found by hard links alone and held against the file's `size`."""

    def __init__(self, path: Path, file: h5py.File, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def columns(self) -> dict[str, Found]:
        """All columns by schema name, with the scores there are."""
        names = list(FIXED)
        group = self._get("candidates")
        if isinstance(group, h5py.Group):
            if len(group) > _MOST_IN_GROUP:
                raise damaged(self._path, f"its group 'candidates' has {len(group)} members")
            names += [name for name in (f"candidates/{member}" for member in group) if name not in FIXED]
        forms = {name: self.found(name) for name in names}
        return {name: column for name, column in forms.items() if column is not None}

    def dataset(self, name: str) -> Any:
        """The dataset of that name; CorruptStoreError where there is none in this file."""
        item = self._get(name)
        if not isinstance(item, h5py.Dataset):
            raise damaged(self._path, f"it has no dataset '{name}'")
        return item

    def found(self, name: str) -> Found | None:
        """What a dataset of plain values says it is, None where there is none."""
        if self._get(name) is None:
            return None
        data = self.dataset(name)
        self._check_storage(name, data, h5py.h5d.CONTIGUOUS)
        text = h5py.check_string_dtype(data.dtype)
        # Up to 8 bytes: numpy's long double and complex kinds have no place in the schema.
        kind: Kind | None = _KINDS.get(data.dtype.kind) if data.dtype.itemsize <= 8 else None
        if text is not None:
            # Texts of fixed length are another program's.
            kind = "text" if text.length is None else None
        if kind is None or data.shape is None:
            raise damaged(self._path, f"'{name}' holds {data.dtype}, which wsitool does not write")
        # The size in the file and not numpy's: a text takes its 16-byte reference.
        length = math.prod(data.shape) * data.id.get_type().get_size()
        offset = data.id.get_offset()
        if length and (offset is None or offset + length > self._size):
            raise damaged(self._path, f"'{name}' claims {length} bytes that the file does not have")
        return Found(kind, data.shape)

    def chunks(self, name: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> NDArray[np.int64]:
        """The places of the chunks of a dataset of bytes, which must have that shape and chunk."""
        data = self.dataset(name)
        self._check_storage(name, data, h5py.h5d.CHUNKED)
        if data.dtype != np.uint8 or data.shape != shape or data.chunks != chunk or not all(chunk):
            raise damaged(self._path, f"'{name}' is {data.dtype} of shape {data.shape}, not bytes {shape}")
        step, length = chunk[0], math.prod(chunk)
        number = -(-shape[0] // step)
        # Before `np.full` makes room for as many places as the header claims.
        if number * length > self._size:
            raise CorruptStoreError(
                f"{self._path} is shorter than its own index says: it was truncated; write it again."
            )
        # The stored list is trusted only where a few of its entries are HDF5's own; asking for all takes
        # seconds with 150,000.
        offsets_form = self.found(OFFSETS)
        offsets: NDArray[np.int64] | None = None
        if offsets_form == Found("int", (number,)):
            offsets = self._file[OFFSETS][:].astype(np.int64)
        rest = (0,) * (len(shape) - 1)
        sample = {0, number // 3, number // 2, number - 1} if number else set()
        if offsets is None or any(
            data.id.get_chunk_info_by_coord((chunk * step, *rest)).byte_offset != offsets[chunk]
            for chunk in sample
        ):
            # A copy by h5repack moved the patches and kept our list: slower to open, but sound.
            offsets = chunk_offsets(data)
        # All of them, sampled or not: no read may leave the file.
        if number and (offsets.min() < 0 or offsets.max() > self._size - length):
            raise CorruptStoreError(
                f"{self._path} is shorter than its own index says: it was truncated; write it again."
            )
        return offsets

    def _get(self, name: str) -> Any:
        """What hard links lead to under that name, None where there is nothing; others are refused."""
        item: Any = self._file
        for part in name.split("/"):
            encoded = part.encode()
            if not isinstance(item, h5py.Group) or not item.id.links.exists(encoded):
                return None
            if item.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
                raise damaged(self._path, f"'{name}' is a link to something else, which is not followed")
            item = item[part]
        return item

    def _check_storage(self, name: str, data: Any, layout: int) -> None:
        properties = data.id.get_create_plist()
        if properties.get_external_count():
            raise damaged(self._path, f"'{name}' is stored in another file, which is not followed")
        if properties.get_layout() != layout or properties.get_nfilters():
            raise CorruptStoreError(
                f"{self._path} was rewritten by another program ('{name}' is no longer stored plainly): "
                "write the store again with wsitool."
            )


class _Places(Protocol):
    def locate(self, indices: NDArray[np.int64]) -> Segments: ...


class _Layout:
    """An HDF5 store whose columns are read when asked for: an open store holds no h5py object."""

    def __init__(
        self, file: KnownFile, columns: dict[str, Found], reasons: tuple[str, ...], places: _Places
    ) -> None:
        self.files, self.columns, self.reasons, self._places = (file,), columns, reasons, places

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        return self._places.locate(indices)

    def column(self, name: str) -> NDArray[Any]:
        # h5py opens by name and would read a file that took the old one's place.
        self.files[0].check()
        path = self.files[0].path
        with as_corruption(path, f"the column '{name}'"), h5py.File(path, "r") as file:
            data = file[name]
            if self.columns[name].kind == "text":
                self._check_texts(name, data)
                return np.array(data.asstr()[:], dtype=np.str_)
            array: NDArray[Any] = data[:]
            return array

    def _check_texts(self, name: str, data: Any) -> None:
        """Many entries may name one long text: what all of them take must fit into the file."""
        if not len(data):
            return
        with open_files.lease(self.files[0]) as descriptor:
            # By position and not by h5py, which would follow every reference and allocate its text.
            entries = os.pread(descriptor, len(data) * _REFERENCE.itemsize, data.id.get_offset())
        lengths = np.frombuffer(entries, _REFERENCE)["length"].astype(np.int64)
        problem = problem_of_texts(name, len(lengths), int(lengths.max()))
        if problem or lengths.sum() > self.files[0].size:
            raise damaged(self.files[0].path, problem or f"the texts of '{name}' are longer than the file")


class _RawPlaces:
    def __init__(self, offsets: NDArray[np.int64], length: int) -> None:
        self._offsets, self._length = offsets, length

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        # One file, one segment a row: rows, files, starts and lengths are all (R,).
        rows = np.arange(len(indices))
        return Segments(rows, np.zeros_like(rows), self._offsets[indices], np.full_like(rows, self._length))


class _JpegPlaces:
    def __init__(self, chunks: NDArray[np.int64], step: int, ends: NDArray[np.int64]) -> None:
        self._chunks, self._step, self._ends = chunks, step, ends

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        # (R,) first and last byte of each patch in the blob, as if it were one piece of memory.
        starts, ends = self._ends[indices], self._ends[indices + 1]
        # The maximum gives an empty stream, which only a damaged store has, one piece of no bytes.
        first, last = starts // self._step, np.maximum(ends - 1, starts) // self._step
        pieces = last - first + 1
        # (S,) a row's number once for each chunk it touches, mostly one, two at an edge.
        rows = np.repeat(np.arange(len(indices)), pieces)
        # The first chunk of the row and then 0, 1, ... within the row: a count over all pieces less the row's
        # start.
        chunk = first[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begin = np.maximum(starts[rows], chunk * self._step)
        end = np.minimum(ends[rows], (chunk + 1) * self._step)
        # From a place in the blob to one in the file, as chunks lie anywhere.
        offset = self._chunks[chunk] + begin - chunk * self._step
        return Segments(rows, np.zeros_like(rows), offset, end - begin)
