"""Chunks of a local zarr array decoded in the thread that asks, for the codecs that images have.

zarr's own reads pass through an event loop in another thread, which costs several times the decode. What is
of another kind is read by zarr. https://zarr-specs.readthedocs.io, versions 2 and 3 with sharding.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["LocalChunks", "local_chunks"]

_UNPACK: dict[str, Callable[..., Any]] = {
    "blosc": imagecodecs.blosc_decode,
    "zstd": imagecodecs.zstd_decode,
    "gzip": imagecodecs.gzip_decode,
    "zlib": imagecodecs.zlib_decode,
}
_ABSENT = 2**64 - 1  # offset and length of a chunk that a shard leaves out
_CHECKSUM_BYTES = 4
_CACHED_INDICES = 64


class LocalChunks:
    """The chunks of one array in a folder; any number of threads may read."""

    def __init__(self, folder: Path, array: Any, steps: Sequence[str], order_dtype: np.dtype[Any]) -> None:
        self._folder, self._metadata, self._steps, self._dtype = folder, array.metadata, steps, order_dtype
        self.chunks: tuple[int, ...] = tuple(array.chunks)
        shards = getattr(array, "shards", None)
        self._per_shard = (
            None if shards is None else tuple(s // c for s, c in zip(shards, self.chunks, strict=True))
        )
        self._fill = array.fill_value
        self._grid = [-(-side // size) for side, size in zip(array.shape, shards or self.chunks, strict=True)]
        self._indices: OrderedDict[Path, NDArray[np.uint64] | None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def missing(self) -> int:
        """How many chunks, or shards, have no file: writers leave out those of the fill value only."""
        return sum(not self._file(place).is_file() for place in itertools.product(*map(range, self._grid)))

    def read(self, window: Sequence[slice]) -> NDArray[Any]:
        """The pixels of a window (one slice an axis); ValueError or OSError for a damaged chunk."""
        out = np.empty([part.stop - part.start for part in window], self._dtype.newbyteorder("="))
        spans = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(window, self.chunks, strict=True)
        ]
        for place in itertools.product(*spans):
            begins = [number * size for number, size in zip(place, self.chunks, strict=True)]
            taken, put = [], []
            for part, begin, size in zip(window, begins, self.chunks, strict=True):
                first, stop = max(part.start, begin), min(part.stop, begin + size)
                taken.append(slice(first - begin, stop - begin))
                put.append(slice(first - part.start, stop - part.start))
            chunk = self._chunk(place)
            if chunk is not None and chunk.shape == out.shape and all(part.start == 0 for part in taken):
                return chunk
            out[tuple(put)] = self._fill if chunk is None else chunk[tuple(taken)]
        return out

    def _chunk(self, place: tuple[int, ...]) -> NDArray[Any] | None:
        """One chunk whole; None where the array leaves it out."""
        data = self._stored(place)
        if data is None:
            return None
        size = int(np.prod(self.chunks)) * self._dtype.itemsize
        for step in self._steps:
            if step == "crc32c":
                data = _checked(data)
            elif step == "blosc":
                if int.from_bytes(data[4:8], "little") != size:  # what its header claims
                    raise ValueError(f"a chunk claims other than its {size} bytes")
                data = bytes(imagecodecs.blosc_decode(data))
            else:
                data = bytes(_UNPACK[step](data, out=size + 1))  # one more shows that there is too much
        if len(data) != size:
            raise ValueError(f"a chunk holds {len(data)} bytes where {size} are expected")
        return np.frombuffer(data, self._dtype).reshape(self.chunks)

    def _stored(self, place: tuple[int, ...]) -> bytes | None:
        if self._per_shard is None:
            try:
                return self._file(place).read_bytes()
            except FileNotFoundError:
                return None
        shard = tuple(number // count for number, count in zip(place, self._per_shard, strict=True))
        within = tuple(number % count for number, count in zip(place, self._per_shard, strict=True))
        file_of_shard = self._file(shard)
        index = self._index(file_of_shard)
        if index is None or index[within][0] == _ABSENT:
            return None
        offset, length = map(int, index[within])
        with file_of_shard.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _file(self, place: tuple[int, ...]) -> Path:
        return self._folder / str(self._metadata.encode_chunk_key(place))

    def _index(self, shard: Path) -> NDArray[np.uint64] | None:
        """Where each chunk of a shard is (..., 2); None for a shard that is not there."""
        with self._lock:
            if shard in self._indices:
                return self._indices[shard]
        assert self._per_shard is not None
        size = 16 * int(np.prod(self._per_shard))
        try:
            with shard.open("rb") as file:
                file.seek(-(size + _CHECKSUM_BYTES), 2)
                data = _checked(file.read())
        except FileNotFoundError:
            index = None
        else:
            index = np.frombuffer(data, "<u8").reshape(*self._per_shard, 2)
        with self._lock:
            self._indices[shard] = index
            if len(self._indices) > _CACHED_INDICES:
                self._indices.popitem(last=False)
        return index


def _checked(data: bytes) -> bytes:
    """`data` without its checksum; ValueError where that is another."""
    content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
        raise ValueError("its checksum is wrong")
    return content


def local_chunks(root: Path, array: Any) -> LocalChunks | None:
    """The chunks of an open zarr array whose store is the folder `root`; None for one that zarr must read."""
    folder = root / array.path
    if not folder.is_dir() or array.dtype.kind != "u":
        return None
    try:
        steps = _steps_of_2(array) if array.metadata.zarr_format == 2 else _steps_of_3(array)
    except (AttributeError, LookupError, TypeError):  # of another build of zarr, or a codec of a plugin
        return None
    return None if steps is None else LocalChunks(folder, array, steps, _stored_type(array))


def _stored_type(array: Any) -> np.dtype[Any]:
    """Samples of more bytes than one are little-endian here, or the array is not read here."""
    stored: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("<")
    return stored


def _steps_of_2(array: Any) -> list[str] | None:
    """How a chunk of zarr 2 is unpacked; None where it has filters, another order or another codec."""
    metadata, compressor = array.metadata, array.metadata.compressor
    little = (
        np.dtype(array.dtype).itemsize == 1 or np.dtype(metadata.dtype.to_native_dtype()).byteorder in "<="
    )
    if metadata.filters or metadata.order != "C" or not little:
        return None
    if compressor is None:
        return []
    name = compressor.get_config()["id"]
    return [name] if name in _UNPACK else None


def _steps_of_3(array: Any) -> list[str] | None:
    """The same of zarr 3, in shards or not; their index must be as zarr writes it."""
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        index = [codec["name"] for codec in sharding["index_codecs"]]
        if len(codecs) > 1 or index != ["bytes", "crc32c"] or sharding["index_location"] != "end":
            return None
        codecs = list(sharding["codecs"])
    first, *packed = codecs
    endian = first.get("configuration", {}).get("endian", "little")
    if first["name"] != "bytes" or (np.dtype(array.dtype).itemsize > 1 and endian != "little"):
        return None
    names = [codec["name"] for codec in reversed(packed)]
    return names if all(name in _UNPACK or name == "crc32c" for name in names) else None
