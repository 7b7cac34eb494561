"""Opening the HDF5 form of a store: every claim is checked against the file before anything is allocated.

Only what wsitool writes is read: hard links, no filters, nothing outside the file. A sample of the stored
places of the patches is compared with HDF5's own index each time, and a repacked file is indexed anew.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.base.urls import RemotePath
from wsitool.errors import CorruptStoreError, NotAStoreError
from wsitool.store.attributes import ATTRIBUTES, from_attributes
from wsitool.store.columns import FIXED, Found, Kind, problem_of_columns, problem_of_reasons, problem_of_texts
from wsitool.store.damage import as_corruption, damaged
from wsitool.store.files import KnownFile
from wsitool.store.foreign import hdf5_in_words, is_foreign
from wsitool.store.layout import Segments
from wsitool.store.plain_values import attribute_values, plain_dtype
from wsitool.store.reader import Reader
from wsitool.store.remote_files import StoredFile, remote_file

__all__ = ["OFFSETS", "chunk_offsets", "open_hdf5"]

OFFSETS = "chunk_offsets"

# Ours has four columns and a few scores; every member is looked at.
_MOST_IN_GROUP = 100
Plain = tuple[int, np.dtype[Any]]  # the place in the file, and as what the bytes there are read
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])  # a text's entry in its dataset
# By numpy's letters, their width aside: `in_schema` converts.
_KINDS: dict[str, Kind] = {"i": "int", "u": "int", "f": "float"}


def chunk_offsets(data: Any) -> NDArray[np.int64]:
    """Byte offset in the file of each chunk along axis 0 of an h5py dataset, from HDF5's own index."""
    return _chunk_offsets(data.id, data.chunks[0])


def _chunk_offsets(data: Any, step: int) -> NDArray[np.int64]:
    # -1 where HDF5 has no place for a chunk: it was never written.
    offsets = np.full(-(-data.shape[0] // step), -1, dtype=np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0] // step] = chunk.byte_offset

    data.chunk_iter(note)
    return offsets


def open_hdf5(path: Path) -> Reader:
    """Open an HDF5 store; CorruptStoreError if it is truncated or was rewritten in another layout.

    NotAStoreError where it is a sound file of another kind.
    """
    # Opening a pipe would wait for a writer for ever, opening a device may do anything.
    if not isinstance(path, RemotePath) and not stat.S_ISREG(path.stat().st_mode):
        raise damaged(path, "it is no regular file")
    # Before HDF5 looks: if the file changes in between, the first read notices.
    file_state = remote_file(str(path)) if isinstance(path, RemotePath) else KnownFile.of(path)
    with as_corruption(path, "the HDF5 file"), _opened(file_state) as file:
        attributes = attribute_values(path, file.id, ATTRIBUTES)
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
        reason = members.dataset("candidates/reason")
        reasons = attribute_values(path, reason, ("reasons",)).get("reasons")
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
    layout = _Layout(file_state, columns, members.plain, tuple(reasons or ()), places)
    return Reader(path, meta, summary, layout)


@contextmanager
def _opened(stored: StoredFile) -> Iterator[h5py.File]:
    if isinstance(stored, KnownFile):
        with h5py.File(stored.path, "r") as file:
            yield file
        return
    # By way of its file objects: what one fails with, h5py keeps to itself.
    with stored.stream() as stream, h5py.File(stream, "r") as file:
        yield file


def _jpeg_places(path: Path, members: _Members, patches: int) -> _JpegPlaces:
    if members.found("encoded/offsets") != Found("int", (patches + 1,)):
        raise damaged(path, f"'encoded/offsets' does not hold the places of {patches} patches")
    # (N + 1,): 8 bytes a patch are kept.
    ends = members.values("encoded/offsets").astype(np.int64)  # a wrapped one is below its neighbour
    blob = members.dataset("encoded/blob")
    # Rising from 0: then its last entry bounds them all.
    if ends[0] != 0 or (np.diff(ends) < 0).any() or blob.rank != 1 or ends[-1] > blob.shape[0]:
        raise damaged(path, "'encoded/offsets' does not fit its blob")
    step = (_chunk(blob) or (0,))[0]
    return _JpegPlaces(members.chunks("encoded/blob", blob.shape, (step,)), step, ends)


def _chunk(data: Any) -> tuple[int, ...] | None:
    """The shape of a dataset's chunks, None where it has none."""
    properties = data.get_create_plist()
    chunk: tuple[int, ...] | None = (
        properties.get_chunk() if properties.get_layout() == h5py.h5d.CHUNKED else None
    )
    return chunk


class _Members:
    """The datasets of an open file, each found by hard links alone and held against the file's `size`.

    Handed out as h5py's `DatasetID`. `plain` says of each column looked at where its values lie and as what,
    where their bytes are the values.
    """

    def __init__(self, path: Path, file: h5py.File, size: int) -> None:
        self._path, self._size = path, size
        self._groups: dict[str, Any] = {"": file.id}
        self.plain: dict[str, Plain] = {}

    def columns(self) -> dict[str, Found]:
        """All columns by schema name, with the scores there are."""
        names = list(FIXED)
        group = self._get("candidates")
        if isinstance(group, h5py.h5g.GroupID):
            if len(group) > _MOST_IN_GROUP:
                raise damaged(self._path, f"its group 'candidates' has {len(group)} members")
            members = [member.decode() for member in group]
            names += [name for name in (f"candidates/{member}" for member in members) if name not in FIXED]
        forms = {name: self.found(name) for name in names}
        return {name: column for name, column in forms.items() if column is not None}

    def dataset(self, name: str) -> Any:
        """The dataset of that name; CorruptStoreError where there is none in this file."""
        return self._dataset(name, self._get(name))

    def _dataset(self, name: str, item: Any) -> Any:
        if not isinstance(item, h5py.h5d.DatasetID):
            raise damaged(self._path, f"it has no dataset '{name}'")
        return item

    def values(self, name: str) -> NDArray[Any]:
        """All values of a dataset of numbers that `found` has found."""
        data = self.dataset(name)
        values: NDArray[Any] = np.empty(data.shape, data.dtype)
        data.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values

    def found(self, name: str) -> Found | None:
        """What a dataset of plain values says it is, None where there is none."""
        item = self._get(name)
        if item is None:
            return None
        data = self._dataset(name, item)
        self._check_storage(name, data, h5py.h5d.CONTIGUOUS)
        in_file, shape = data.get_type(), data.shape
        dtype = plain_dtype(in_file)
        # The size in the file and not numpy's: a text takes its 16-byte reference.
        width = in_file.get_size()
        plain = dtype is not None
        dtype = data.dtype if dtype is None else dtype
        text = h5py.check_string_dtype(dtype)
        # Up to 8 bytes: numpy's long double and complex kinds have no place in the schema.
        kind: Kind | None = _KINDS.get(dtype.kind) if dtype.itemsize <= 8 else None
        if text is not None:
            # Texts of fixed length are another program's.
            kind = "text" if text.length is None else None
        if kind is None or shape is None:
            raise damaged(self._path, f"'{name}' holds {dtype}, which wsitool does not write")
        length = math.prod(shape) * width
        offset = data.get_offset()
        if length and (offset is None or offset + length > self._size):
            raise damaged(self._path, f"'{name}' claims {length} bytes that the file does not have")
        if plain:
            self.plain[name] = (offset or 0, dtype)
        return Found(kind, shape)

    def chunks(self, name: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> NDArray[np.int64]:
        """The places of the chunks of a dataset of bytes, which must have that shape and chunk."""
        data = self.dataset(name)
        self._check_storage(name, data, h5py.h5d.CHUNKED)
        if data.dtype != np.uint8 or data.shape != shape or _chunk(data) != chunk or not all(chunk):
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
            offsets = self.values(OFFSETS).astype(np.int64)
        rest = (0,) * (len(shape) - 1)
        sample = {0, number // 3, number // 2, number - 1} if number else set()
        if offsets is None or any(
            data.get_chunk_info_by_coord((chunk * step, *rest)).byte_offset != offsets[chunk]
            for chunk in sample
        ):
            # A copy by h5repack moved the patches and kept our list: slower to open, but sound.
            offsets = _chunk_offsets(data, step)
        # All of them, sampled or not: no read may leave the file.
        if number and (offsets.min() < 0 or offsets.max() > self._size - length):
            raise CorruptStoreError(
                f"{self._path} is shorter than its own index says: it was truncated; write it again."
            )
        return offsets

    def _get(self, name: str) -> Any:
        """What hard links lead to under that name, None where there is nothing; others are refused."""
        folder, _, last = name.rpartition("/")
        parent = self._groups.get(folder) or self._get(folder)
        if not isinstance(parent, h5py.h5g.GroupID):
            return None
        self._groups[folder] = parent
        encoded = last.encode()
        if not parent.links.exists(encoded):
            return None
        if parent.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
            raise damaged(self._path, f"'{name}' is a link to something else, which is not followed")
        return h5py.h5o.open(parent, encoded)

    def _check_storage(self, name: str, data: Any, layout: int) -> None:
        properties = data.get_create_plist()
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
        self,
        file: StoredFile,
        columns: dict[str, Found],
        plain: dict[str, Plain],
        reasons: tuple[str, ...],
        places: _Places,
    ) -> None:
        self.files: tuple[StoredFile] = (file,)
        self.columns, self.reasons, self._places = columns, reasons, places
        self._plain = {name: plain[name] for name in columns if name in plain}

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        return self._places.locate(indices)

    def column(self, name: str) -> NDArray[Any]:
        if name in self._plain:
            return self._read(name, *self._plain[name])
        # h5py opens by name and would read a file that took the old one's place.
        self.files[0].check()
        path = self.files[0].path
        with as_corruption(path, f"the column '{name}'"), _opened(self.files[0]) as file:
            data = file[name]
            if self.columns[name].kind == "text":
                self._check_texts(name, data)
                return np.array(data.asstr()[:], dtype=np.str_)
            array: NDArray[Any] = data[:]
            return array

    def _read(self, name: str, offset: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Values whose bytes are those of the file, by position: a tenth of opening it with h5py."""
        values: NDArray[Any] = np.empty(self.columns[name].shape, dtype)
        path = self.files[0].path
        with as_corruption(path, f"the column '{name}'"):
            if values.size and self.files[0].read_into(values.data.cast("B"), offset) != values.nbytes:
                raise ValueError("the file ends before its bytes")
        return values

    def _check_texts(self, name: str, data: Any) -> None:
        """Many entries may name one long text: what all of them take must fit into the file."""
        if not len(data):
            return
        # By position and not by h5py, which would follow every reference and allocate its text.
        entries = self.files[0].read(data.id.get_offset(), len(data) * _REFERENCE.itemsize)
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
