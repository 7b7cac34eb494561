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

from wsitool.base.json_files import MOST_BYTES, parse_json, read_json
from wsitool.base.objects import listed
from wsitool.base.urls import RemotePath
from wsitool.errors import CorruptStoreError, NotAStoreError, StoreError
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
from wsitool.store.layout import Segments
from wsitool.store.reader import Reader
from wsitool.store.remote_files import RemoteFile, StoredFile, read_at_once
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
    folder = _RemoteFolder(path) if isinstance(path, RemotePath) else _Folder(path)
    if not folder.has("zarr.json") and not folder.has("patches"):
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
        files = [folder.shard(number) for number in range(-(-summary.patches // rows_per_shard))]
        index = _read_indices(path, files, rows_per_shard, summary.patches, length)
    old = not covers_attributes(summary.content_hash)
    return Reader(
        path, meta, summary, _ShardLayout(folder, columns, tuple(reasons), files, rows_per_shard, index, old)
    )


def _read_indices(
    path: Path, files: Sequence[StoredFile], rows: int, patches: int, raw_length: int | None
) -> NDArray[np.int64]:
    """The first `patches` entries of the shards' indices, (N, 2) offset and length; each has room for `rows`.

    CorruptStoreError unless they are there, lie within their file and, for raw pixels, have their length.
    """
    # 16 bytes for each patch the shard has room for, then 4 of CRC32C.
    size = rows * 16 + 4
    for shard, file in enumerate(files):
        if file.size < size:
            raise damaged(path, f"shard {shard} is shorter than its index")
    # One read of the tail; the pixels are not touched, so opening costs the same for any patch size.
    tails = read_at_once([(file, file.size - size, size) for file in files])
    indices = [
        _index(path, shard, file.size, tail, min(rows, patches - shard * rows), raw_length)
        for shard, (file, tail) in enumerate(zip(files, tails, strict=True))
    ]
    return np.concatenate(indices)


def _index(
    path: Path, shard: int, size: int, tail: bytes, used: int, raw_length: int | None
) -> NDArray[np.int64]:
    if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise CorruptStoreError(
            f"{path}: the index of shard {shard} does not match its checksum, so the file was truncated or "
            "damaged; write the store again."
        )
    # (R, 2); of an absent chunk both fields are 2**64 - 1, which as int64 is -1.
    entries = np.frombuffer(tail[:-4], dtype="<u8").reshape(-1, 2)[:used].astype(np.int64)
    start, length = entries.T
    if entries.min() < 0:
        raise CorruptStoreError(f"{path} lacks patches that its shape promises: write the store again.")
    # Written as a difference, since offset + length of a hostile index overflows; lengths are kept as int32.
    if (length > size - start).any() or length.max() >= 2**31:
        raise damaged(path, f"the index of shard {shard} leads outside of it")
    if raw_length is not None and (length != raw_length).any():
        raise damaged(path, f"not all patches in shard {shard} have {raw_length} bytes")
    return entries


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

    def has(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        return (self.path / name).exists()

    def members(self, name: str) -> list[str]:
        """The folders in a folder that may be there, sorted."""
        group = self.path / name
        return sorted(entry.name for entry in os.scandir(group) if entry.is_dir()) if group.is_dir() else []

    def read(self, *parts: str) -> bytes:
        """All of a file; FileNotFoundError where it is not there."""
        return self.file(*parts).read_bytes()

    def shard(self, number: int) -> StoredFile:
        """A file of patches; CorruptStoreError where it is not there."""
        try:
            return self._known("patches", "c", str(number), "0", "0", "0")
        except FileNotFoundError:
            raise CorruptStoreError(
                f"{self.path} lacks its shard {number}: restore the file or write it again."
            ) from None

    def _known(self, *parts: str) -> StoredFile:
        return KnownFile.of(self.file(*parts))

    def _json(self, *parts: str) -> Any:
        return read_json(self.file(*parts))

    def metadata(self, name: str) -> dict[str, Any]:
        """The zarr.json of an array or group; CorruptStoreError if it is no JSON object."""
        try:
            values = self._json(*filter(None, name.split("/")), "zarr.json")
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
        members = self.members("candidates")
        if len(members) > _MOST_IN_GROUP:
            raise damaged(self.path, f"its group 'candidates' has {len(members)} members")
        names += [name for name in (f"candidates/{member}" for member in members) if name not in FIXED]
        return {name: self._found(name) for name in names if self.has(name)}

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
        parts = (*name.split("/"), "c", *("0" for _ in shape))
        # Stores of before lack chunks that were all zeros; from then on a missing file is damage.
        if not number or (may_lack_zeros and not self.has("/".join(parts)) and not array["fill_value"]):
            return np.zeros(shape, np.dtype("U1") if text else dtype)
        data = self.read(*parts)
        packed = len(array["codecs"]) > 1
        if text:
            return _texts(self.path, name, _unpacked_text(data, number) if packed else data, number)
        size = number * dtype.itemsize
        # `out` bounds what is unpacked: a few bytes of zstd can claim gigabytes.
        data = bytes(imagecodecs.zstd_decode(data, out=size)) if packed else data
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes instead of {size}")
        return np.frombuffer(data, dtype).reshape(shape)


class _RemoteFolder(_Folder):
    """The same of a URL: listed once, and all metadata read at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._objects = listed(str(path))
        if not self._objects:
            raise StoreError(f"There is no patch store at {path}: check the URL, or list its folder.")
        metadata = [name for name in self._objects if name.rpartition("/")[2] == "zarr.json"]
        asked = [
            (RemoteFile(self._objects[name]), 0, min(self._objects[name].size, MOST_BYTES))
            for name in metadata
        ]
        self._metadata = dict(zip(metadata, read_at_once(asked), strict=True))

    def has(self, name: str) -> bool:
        return name in self._objects or any(other.startswith(f"{name}/") for other in self._objects)

    def members(self, name: str) -> list[str]:
        inside = [other[len(name) + 1 :] for other in self._objects if other.startswith(f"{name}/")]
        return sorted({rest.partition("/")[0] for rest in inside if "/" in rest})

    def read(self, *parts: str) -> bytes:
        file = self._known(*parts)
        return file.read(0, file.size)

    def _known(self, *parts: str) -> StoredFile:
        try:
            return RemoteFile(self._objects["/".join(parts)])
        except KeyError:
            raise FileNotFoundError(f"it has no '{'/'.join(parts)}'") from None

    def _json(self, *parts: str) -> Any:
        try:
            return parse_json(self._metadata["/".join(parts)])
        except KeyError:
            raise ValueError("it is missing") from None


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
        files: Sequence[StoredFile],
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
