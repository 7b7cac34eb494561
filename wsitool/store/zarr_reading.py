"""Opening the zarr form of a store: every claim is checked against the files before anything is allocated.

Only what wsitool writes is read, without zarr-python: one chunk a column, zstd at most, no other codec, no
file outside the folder. Patches are read from their shards by position.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsitool.base.json_files import read_json
from wsitool.errors import CorruptStoreError, NotAStoreError
from wsitool.store.attributes import from_attributes
from wsitool.store.columns import (
    FIXED,
    MOST_TEXT,
    Found,
    Kind,
    problem_of_columns,
    problem_of_reasons,
    problem_of_texts,
)
from wsitool.store.damage import as_corruption, damaged
from wsitool.store.files import KnownFile
from wsitool.store.foreign import is_foreign, zarr_in_words
from wsitool.store.hashing import covers_attributes
from wsitool.store.reader import Reader, Segments
from wsitool.store.schema import StoreMeta

__all__ = ["array_metadata", "open_zarr"]

_MOST_IN_GROUP = 100
_KINDS: dict[str, Kind] = {"i": "int", "u": "int", "f": "float"}


def array_metadata(meta: StoreMeta, patches: int, rows_per_shard: int) -> dict[str, Any]:
    """The zarr v3 metadata of the array `patches`.

    As zarr-python writes it, key by key; the reader compares a store's own with this.
    """
    size = meta.patch_size
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if meta.codec == "raw":
        # A byte has no endianness to state.
        inner: dict[str, Any] = {"name": "bytes"}
    else:
        # Sampling factors as imagecodecs understands them; "420" in stores of before, which do not state it.
        configuration = {"level": meta.quality, "subsampling": meta.subsampling or "420"}
        inner = {"name": "imagecodecs_jpeg", "configuration": configuration}
    # One patch a chunk inside of the shard, at the end of the file an index of where each is.
    sharding = {
        "chunk_shape": [1, size, size, 3],
        "codecs": [inner],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [patches, size, size, 3],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows_per_shard, size, size, 3]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "storage_transformers": [],
        "dimension_names": ["patch", "y", "x", "rgb"],
    }


def open_zarr(path: Path) -> Reader:
    """Open a zarr store; CorruptStoreError if a shard is missing, truncated or damaged.

    NotAStoreError where it is something else.
    """
    folder = _Folder(path)
    if not (path / "zarr.json").exists() and not (path / "patches").exists():
        raise NotAStoreError(f"{path} is not a wsitool patch store but {zarr_in_words(path, None)}.")
    with as_corruption(path, "the zarr metadata"):
        # No zarr-python here: importing it costs more than opening the store.
        attributes = folder.metadata("").get("attributes", {})
        if is_foreign(attributes):
            told = zarr_in_words(path, folder.metadata(""))
            raise NotAStoreError(f"{path} is not a wsitool patch store but {told}.")
        meta, summary = from_attributes(path, attributes)
        columns = folder.columns()
        reasons = folder.metadata("candidates/reason").get("attributes", {}).get("reasons")
        problem = problem_of_columns(columns, meta, summary) or problem_of_reasons(reasons)
        if problem:
            raise damaged(path, problem)
        array = folder.metadata("patches")
        rows_per_shard = int(array["chunk_grid"]["configuration"]["chunk_shape"][0])
        # Rebuilt from the attributes and compared as a whole: simpler to be sure of than to parse what any
        # program may write.
        expected = array_metadata(meta, summary.patches, rows_per_shard)
    compared = (
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "codecs",
    )
    if rows_per_shard < 1 or any(array.get(name) != expected[name] for name in compared):
        raise CorruptStoreError(
            f"{path} was rewritten by another program (its array 'patches' is not what its attributes say): "
            "write the store again with wsitool."
        )
    # JPEG patches have lengths of their own.
    length = meta.patch_size**2 * 3 if meta.codec == "raw" else None
    with as_corruption(path, "the index of a shard"):
        shards = [
            _read_index(folder, first // rows_per_shard, rows_per_shard, summary.patches - first, length)
            for first in range(0, summary.patches, rows_per_shard)
        ]
    index = np.concatenate([entries for _, entries in shards])
    files = tuple(file for file, _ in shards)
    old = not covers_attributes(summary.content_hash)
    return Reader(
        path, meta, summary, _ShardLayout(folder, columns, tuple(reasons), files, rows_per_shard, index, old)
    )


def _read_index(
    folder: _Folder, shard: int, rows: int, used: int, raw_length: int | None
) -> tuple[KnownFile, NDArray[np.int64]]:
    """The shard's file and the first `used` of the `rows` of its index, (R, 2) offset and length.

    CorruptStoreError unless they are there, lie within the file and, for raw pixels, have their length.
    """
    path, file = folder.path, folder.file("patches", "c", str(shard), "0", "0", "0")
    try:
        file_state = KnownFile.of(file)
    except FileNotFoundError:
        raise CorruptStoreError(
            f"{path} lacks its shard {shard}: restore the file or write it again."
        ) from None
    # 16 bytes for each patch the shard has room for, then 4 of CRC32C.
    size = rows * 16
    if file_state.size < size + 4:
        raise damaged(path, f"shard {shard} is shorter than its index")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        # One read of the tail; the pixels are not touched, so opening costs the same for any patch size.
        tail = os.pread(descriptor, size + 4, file_state.size - size - 4)
    finally:
        os.close(descriptor)
    if len(tail) != size + 4 or google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise CorruptStoreError(
            f"{path}: the index of shard {shard} does not match its checksum, so the file was truncated or "
            "damaged; write the store again."
        )
    # (R, 2); of an absent chunk both fields are 2**64 - 1, which as int64 is -1.
    entries = np.frombuffer(tail[:-4], dtype="<u8").reshape(rows, 2)[:used].astype(np.int64)
    start, length = entries.T
    if entries.min() < 0:
        raise CorruptStoreError(f"{path} lacks patches that its shape promises: write the store again.")
    # Written as a difference, since offset + length of a hostile index overflows; lengths are kept as int32.
    if (length > file_state.size - start).any() or length.max() >= 2**31:
        raise damaged(path, f"the index of shard {shard} leads outside of it")
    if raw_length is not None and (length != raw_length).any():
        raise damaged(path, f"not all patches in shard {shard} have {raw_length} bytes")
    return file_state, entries


class _Folder:
    """The folder of a store, or a link to it; what leads out of it, or is no regular file, is refused."""

    def __init__(self, path: Path) -> None:
        self.path, self._real = path, os.path.realpath(path)

    def file(self, *parts: str) -> Path:
        """A file of the store, there or not; CorruptStoreError where links lead out of the folder."""
        file = self.path
        for part in parts:
            file /= part
            # Only at links: resolving every path would cost a system call a part for each of thousands of
            # shards.
            if file.is_symlink() and not os.path.realpath(file).startswith(self._real + os.sep):
                told = "/".join(parts)
                raise damaged(self.path, f"'{told}' is a link out of the store, which is not followed")
        if file.exists() and not file.is_file():  # reading from a pipe would wait for ever
            raise damaged(self.path, f"'{'/'.join(parts)}' is no regular file")
        return file

    def metadata(self, name: str) -> dict[str, Any]:
        """The zarr.json of an array or group; CorruptStoreError if it is no JSON object."""
        try:
            values = read_json(self.file(*filter(None, name.split("/")), "zarr.json"))
        except ValueError as error:
            raise damaged(
                self.path, f"'{name}/zarr.json' cannot be read, {error}".replace("'/", "'")
            ) from None
        if not isinstance(values, dict) or not isinstance(values.get("attributes", {}), dict):
            raise damaged(self.path, f"'{name}/zarr.json' is not what zarr writes".replace("'/", "'"))
        return values

    def columns(self) -> dict[str, Found]:
        """All columns by schema name, with the scores there are."""
        names = list(FIXED)
        members = self.path / "candidates"
        if members.is_dir():
            members_there = sorted(entry.name for entry in os.scandir(members) if entry.is_dir())
            if len(members_there) > _MOST_IN_GROUP:
                raise damaged(self.path, f"its group 'candidates' has {len(members_there)} members")
            names += [
                name for name in (f"candidates/{member}" for member in members_there) if name not in FIXED
            ]
        return {name: self._found(name) for name in names if (self.path / name).is_dir()}

    def _found(self, name: str) -> Found:
        """What an array says it is; CorruptStoreError for codecs, types or chunks that are not ours."""
        array = self.metadata(name)
        shape, dtype = array["shape"], array["data_type"]
        codecs = [(codec["name"], codec.get("configuration", {})) for codec in array["codecs"]]
        kind: Kind | None = "text" if dtype == "string" else None
        if kind is None and dtype in ("uint8", "int16", "int32", "int64", "float32", "float64"):
            kind = _KINDS[np.dtype(dtype).kind]
        first = "vlen-utf8" if kind == "text" else "bytes"
        if (
            kind is None
            or [codec for codec, _ in codecs] not in ([first], [first, "zstd"])
            or codecs[0][1].get("endian", "little") != "little"
            # JSON's true is an int to isinstance.
            or not all(type(side) is int and side >= 0 for side in shape)
            # One chunk a column, as we write it; more would each need a file.
            or array["chunk_grid"]["configuration"]["chunk_shape"] != [max(1, side) for side in shape]
            or array["chunk_key_encoding"]["name"] != "default"
            or array.get("storage_transformers")
        ):
            raise CorruptStoreError(
                f"{self.path} was rewritten by another program (its array '{name}' is stored otherwise than "
                "wsitool does): write the store again with wsitool."
            )
        return Found(kind, tuple(shape))

    def values(self, name: str, *, may_lack_zeros: bool) -> NDArray[Any]:
        """The values of a column; `may_lack_zeros` where a chunk of nothing but zeros was not written."""
        array = self.metadata(name)
        shape, number = tuple(array["shape"]), math.prod(array["shape"])
        text = array["data_type"] == "string"
        dtype = np.dtype("O" if text else array["data_type"]).newbyteorder("<")
        # Default chunk keys: c/0 or c/0/0.
        file = self.file(*name.split("/"), "c", *("0" for _ in shape))
        # Stores of before lack chunks that were all zeros; from then on a missing file is damage.
        if not number or (may_lack_zeros and not file.exists() and not array["fill_value"]):
            return np.zeros(shape, np.dtype("U1") if text else dtype)
        data = file.read_bytes()
        packed = len(array["codecs"]) > 1
        if text:
            return _texts(self.path, name, _unpacked_text(data, number) if packed else data, number)
        size = number * dtype.itemsize
        # `out` bounds what is unpacked: a few bytes of zstd can claim gigabytes.
        data = bytes(imagecodecs.zstd_decode(data, out=size)) if packed else data
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes instead of {size}")
        return np.frombuffer(data, dtype).reshape(shape)


def _unpacked_text(data: bytes, number: int) -> bytes:
    """Decompressed text of a length that is not known before, so that a little of it cannot be gigabytes."""
    # Guess generously, multiply on failure: the loop ends at MOST_TEXT.
    room = 256 * number + 1024
    while True:
        try:
            return bytes(imagecodecs.zstd_decode(data, out=room))
        except RuntimeError:
            if room > MOST_TEXT:
                raise
            room *= 8


def _texts(path: Path, name: str, data: bytes, number: int) -> NDArray[np.str_]:
    """The texts of the codec vlen-utf8: their number, then the length and the bytes of each."""
    # All numbers have four bytes, little-endian.
    if int.from_bytes(data[:4], "little") != number:
        raise ValueError(f"it does not hold {number} texts")
    texts: list[str] = []
    at = 4
    for _ in range(number):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError("its texts end early")
        texts.append(data[at + 4 : end].decode())
        at = end
    # numpy keeps all of them as wide as the longest.
    problem = problem_of_texts(name, number, max(map(len, texts), default=0))
    if problem:
        raise damaged(path, problem)
    return np.array(texts, dtype=np.str_)


class _ShardLayout:
    """Patches in shards, columns when asked for."""

    def __init__(
        self,
        folder: _Folder,
        columns: dict[str, Found],
        reasons: tuple[str, ...],
        files: Sequence[KnownFile],
        rows_per_shard: int,
        index: NDArray[np.int64],
        may_lack_zeros: bool,
    ) -> None:
        self._folder, self.columns, self.reasons = folder, columns, reasons
        self.files, self._rows_per_shard, self._may_lack_zeros = tuple(files), rows_per_shard, may_lack_zeros
        # Contiguous, so that the index does not keep both columns alive.
        self._start = np.ascontiguousarray(index[:, 0])
        lengths = index[:, 1]
        # one number serves the raw codec: an index of 8 bytes a patch, 12 with JPEG
        self._length = lengths[:1].copy() if (lengths == lengths[:1]).all() else lengths.astype(np.int32)

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        rows = np.arange(len(indices))
        length = self._length[indices] if len(self._length) > 1 else np.full_like(rows, self._length[0])
        # Shards are full but for the last, so a division finds the file.
        return Segments(rows, indices // self._rows_per_shard, self._start[indices], length.astype(np.int64))

    def column(self, name: str) -> NDArray[Any]:
        with as_corruption(self._folder.path, f"the column '{name}'"):
            values = self._folder.values(name, may_lack_zeros=self._may_lack_zeros)
            form = self.columns[name]
            if values.shape != form.shape:
                raise ValueError("it was changed since the store was opened")
            return values
