"""The zarr v3 form of a store: one folder that plain zarr-python reads, patches in shards.

A shard is its patches' bytes one after the other, then an index of (offset, length) pairs and a CRC32C:
the `sharding_indexed` codec of the zarr v3 specification. Shards are written and read here as bytes, since
zarr-python encodes and locates one chunk at a time; the columns go through zarr-python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import CorruptStoreError
from wsitool.store.attributes import Summary, coords_attributes, from_attributes, to_attributes
from wsitool.store.damage import as_corruption
from wsitool.store.files import EarlySync, KnownFile
from wsitool.store.reader import Reader, Segments
from wsitool.store.schema import Candidates, StoreMeta
from wsitool.store.writer import Columns, Writer

__all__ = ["ZarrWriter", "open_zarr"]

_SHARD_BYTES = 1 << 28  # of decoded pixels: 1,783 patches of 224 px, so 85 files for 150,000
_SHARD_ROWS = 4096  # the index of a shard is stored in full, however few patches it has
_ABSENT = 2**64 - 1  # in both fields of an index entry whose chunk was never written


class ZarrWriter(Writer):
    """Writes a store as one zarr v3 group."""

    def __init__(self, path: Path, meta: StoreMeta, *, overwrite: bool, expected: int = 0) -> None:
        super().__init__(path, meta, overwrite=overwrite)
        self._rows_per_shard = min(_SHARD_ROWS, max(1, _SHARD_BYTES // (meta.patch_size**2 * 3)))
        self._shard: BinaryIO | None = None
        self._sync = EarlySync()
        self._index = np.full((self._rows_per_shard, 2), _ABSENT, dtype="<u8")
        (self._pending.temporary / "patches" / "c").mkdir(parents=True)

    def _write_patches(self, patches: Sequence[bytes | memoryview]) -> None:
        for row, patch in enumerate(patches, self._patches):
            shard, place = divmod(row, self._rows_per_shard)
            if self._shard is None:
                file = self._pending.temporary / "patches" / "c" / str(shard) / "0" / "0" / "0"
                file.parent.mkdir(parents=True)
                self._shard = file.open("wb")
            self._index[place] = self._shard.tell(), len(patch)
            self._shard.write(patch)
            self._sync.wrote(self._shard.fileno(), len(patch), end=self._shard.tell())
            if place == self._rows_per_shard - 1:
                self._end_shard()

    def _end_shard(self) -> None:
        if self._shard is not None:
            index = self._index.tobytes()
            self._shard.write(index + google_crc32c.value(index).to_bytes(4, "little"))
            self._shard.close()
            self._shard = None
            self._index[:] = _ABSENT

    def _write_columns(self, columns: Columns, summary: Summary) -> None:
        import zarr

        self._end_shard()
        metadata = _array_metadata(self._meta, summary.patches, self._rows_per_shard)
        (self._pending.temporary / "patches" / "zarr.json").write_text(json.dumps(metadata, indent=2))
        root = zarr.open_group(self._pending.temporary, mode="a", zarr_format=3)
        root.attrs.update(to_attributes(self._meta, summary))
        for name, array in columns.arrays().items():
            root.create_array(name, data=np.ascontiguousarray(array), chunks=_whole(array.shape))
        for name, texts in columns.texts().items():
            column = root.create_array(
                name, shape=(len(texts),), dtype="string", chunks=_whole((len(texts),))
            )
            column[:] = np.array(texts, dtype=object)
        root["candidates/reason"].attrs["reasons"] = list(columns.candidates.reasons)
        if columns.label is not None:
            root["label"].attrs["classes"] = list(self._meta.classes)
        root["coords"].attrs.update(coords_attributes(self._meta, self._pending.final.parent.absolute()))

    def _close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        self._sync.finish()


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, length) for length in shape)


def _array_metadata(meta: StoreMeta, patches: int, rows_per_shard: int) -> dict[str, Any]:
    """The zarr v3 metadata of the array `patches`."""
    size = meta.patch_size
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if meta.codec == "raw":
        inner: dict[str, Any] = {"name": "bytes"}
    else:
        # 4:2:0 is given as the sampling factors that imagecodecs understands
        inner = {"name": "imagecodecs_jpeg", "configuration": {"level": meta.quality, "subsampling": "420"}}
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
    """Open a zarr store; CorruptStoreError if a shard is missing, truncated or damaged."""
    with as_corruption(path, "the zarr metadata"):
        root = json.loads((path / "zarr.json").read_text())
        meta, summary = from_attributes(path, root.get("attributes", {}))
        array = json.loads((path / "patches" / "zarr.json").read_text())
        rows_per_shard = int(array["chunk_grid"]["configuration"]["chunk_shape"][0])
        expected = _array_metadata(meta, summary.patches, rows_per_shard)
        same = array["shape"] == expected["shape"] and array["codecs"][0]["name"] == "sharding_indexed"
    if not same or rows_per_shard < 1:
        raise CorruptStoreError(
            f"{path} was rewritten by another program (its array 'patches' is not what its attributes say): "
            "write the store again with wsitool."
        )
    number = -(-summary.patches // rows_per_shard)
    shards = [_read_index(path, shard, rows_per_shard) for shard in range(number)]
    index = np.concatenate([entries for _, entries in shards])[: summary.patches]
    return Reader(
        path, meta, summary, _ShardLayout(path, tuple(file for file, _ in shards), rows_per_shard, index)
    )


def _read_index(path: Path, shard: int, rows: int) -> tuple[KnownFile, NDArray[np.int64]]:
    """The shard's file and its index, (rows, 2) offset and length; -1 where a chunk is absent."""
    file = path / "patches" / "c" / str(shard) / "0" / "0" / "0"
    try:
        known = KnownFile.of(file)
    except FileNotFoundError:
        raise CorruptStoreError(
            f"{path} lacks its shard {file.name}: restore the file or write it again."
        ) from None
    size = rows * 16
    descriptor = os.open(file, os.O_RDONLY)
    try:
        tail = os.pread(descriptor, size + 4, max(0, known.size - size - 4))
    finally:
        os.close(descriptor)
    if len(tail) != size + 4 or google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise CorruptStoreError(
            f"{path}: the index of shard {shard} does not match its checksum, so the file was truncated or "
            "damaged; write the store again."
        )
    entries = np.frombuffer(tail[:-4], dtype="<u8").reshape(rows, 2).astype(np.int64)
    return known, entries


class _ShardLayout:
    """Patches in shards, columns through zarr-python when asked for."""

    def __init__(
        self, path: Path, files: tuple[KnownFile, ...], rows_per_shard: int, index: NDArray[np.int64]
    ) -> None:
        if len(index) and index.min() < 0:
            raise CorruptStoreError(f"{path} lacks patches that its shape promises: write the store again.")
        self._path, self.files, self._rows_per_shard = path, files, rows_per_shard
        self._start = np.ascontiguousarray(index[:, 0])
        lengths = index[:, 1]
        # one number serves the raw codec: an index of 8 bytes a patch, 12 with JPEG
        self._length = lengths[:1].copy() if (lengths == lengths[:1]).all() else lengths.astype(np.int32)

    def locate(self, indices: NDArray[np.int64]) -> Segments:
        rows = np.arange(len(indices))
        length = self._length[indices] if len(self._length) > 1 else np.full_like(rows, self._length[0])
        return Segments(rows, indices // self._rows_per_shard, self._start[indices], length.astype(np.int64))

    def _root(self) -> Any:
        import zarr

        return zarr.open_group(self._path, mode="r", zarr_format=3)

    def column(self, name: str) -> NDArray[Any] | None:
        with as_corruption(self._path, f"the column '{name}'"):
            root = self._root()
            if name not in root:
                return None
            column = np.asarray(root[name][:])
        return np.array(column.tolist(), dtype=np.str_) if column.dtype.kind in "OT" else column

    def candidates(self) -> Candidates:
        with as_corruption(self._path, "the candidates"):
            group = self._root()["candidates"]
            fixed = ("x", "y", "tissue", "reason")
            return Candidates(
                coords=np.stack([group["x"][:], group["y"][:]], axis=1).astype(np.int64),
                tissue=group["tissue"][:],
                reason=group["reason"][:],
                reasons=tuple(group["reason"].attrs["reasons"]),
                scores={name: group[name][:] for name in group if name not in fixed},
            )
