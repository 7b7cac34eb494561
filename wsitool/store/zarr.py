"""The zarr v3 form of a store: one folder that plain zarr-python reads, patches in shards.

A shard is its patches' bytes one after the other, then an index of (offset, length) pairs and a CRC32C:
the `sharding_indexed` codec of the zarr v3 specification. Shards are written here as bytes, since zarr-python
encodes one chunk at a time; the columns go through zarr-python. `zarr_reading` opens it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from wsitool.base.direct_io import EarlySync
from wsitool.store.attributes import Summary, coords_attributes, to_attributes
from wsitool.store.schema import StoreMeta
from wsitool.store.writer import Columns, Writer
from wsitool.store.zarr_reading import array_metadata

__all__ = ["ZarrWriter"]

_SHARD_BYTES = 1 << 28  # of decoded pixels: 1,783 patches of 224 px, so 85 files for 150,000
_SHARD_ROWS = 4096  # the index of a shard is stored in full, however few patches it has
_ABSENT = 2**64 - 1  # in both fields of an index entry whose chunk was never written


class ZarrWriter(Writer):
    """Writes a store as one zarr v3 group.

    Shards are written as they fill, synced in the background; metadata and columns come in the end. For one
    thread.
    """

    def __init__(self, path: Path, meta: StoreMeta, *, overwrite: bool, expected: int = 0) -> None:
        super().__init__(path, meta, overwrite=overwrite)
        # As many patches as fill 256 MB, of small patches fewer.
        self._rows_per_shard = min(_SHARD_ROWS, max(1, _SHARD_BYTES // (meta.patch_size**2 * 3)))
        self._shard: BinaryIO | None = None
        self._sync = EarlySync()
        # Of the shard being written; used again for the next.
        self._index = np.full((self._rows_per_shard, 2), _ABSENT, dtype="<u8")
        (self._pending.temporary / "patches" / "c").mkdir(parents=True)

    def _write_patches(self, patches: Sequence[bytes | memoryview]) -> None:
        for row, patch in enumerate(patches, self._patches):
            shard, slot = divmod(row, self._rows_per_shard)
            if self._shard is None:
                file = self._pending.temporary / "patches" / "c" / str(shard) / "0" / "0" / "0"
                file.parent.mkdir(parents=True)
                self._shard = file.open("wb")
            self._index[slot] = self._shard.tell(), len(patch)
            self._shard.write(patch)
            # Begins to sync in the background every 64 MB; without it `finish` would wait for gigabytes.
            self._sync.wrote(self._shard.fileno(), len(patch), end=self._shard.tell())
            if slot == self._rows_per_shard - 1:
                self._end_shard()

    def _end_shard(self) -> None:
        if self._shard is not None:
            index = self._index.tobytes()
            self._shard.write(index + google_crc32c.value(index).to_bytes(4, "little"))
            self._shard.close()
            self._shard = None
            self._index[:] = _ABSENT

    def _write_columns(self, columns: Columns, summary: Summary) -> None:
        # A third of a second at least, and only zarr stores need it.
        import zarr
        import zarr.storage

        self._end_shard()
        metadata = array_metadata(self._meta, summary.patches, self._rows_per_shard)
        (self._pending.temporary / "patches" / "zarr.json").write_text(json.dumps(metadata, indent=2))
        # In memory first: after an error zarr's threads would go on writing into a folder that is removed.
        files: dict[str, Any] = {}
        root = zarr.open_group(zarr.storage.MemoryStore(files), mode="a", zarr_format=3)
        root.attrs.update(to_attributes(self._meta, summary))
        # Where chunks of nothing but zeros are not written, one that was lost cannot be told from them.
        config: Any = {"write_empty_chunks": True}
        for name, array in columns.arrays().items():
            # One chunk a column: read in one go, and a lost chunk is a lost column, not a hole.
            root.create_array(name, data=array, chunks=_whole(array.shape), config=config)
        for name, texts in columns.texts().items():
            shape = (len(texts),)
            column = root.create_array(name, shape=shape, dtype="string", chunks=_whole(shape), config=config)
            # zarr's string type takes objects; numpy's fixed width would cost each the longest's room.
            column[:] = np.array(texts, dtype=object)
        root["candidates/reason"].attrs["reasons"] = list(columns.candidates.reasons)
        if columns.label is not None:
            root["label"].attrs["classes"] = list(self._meta.classes)
        root["coords"].attrs.update(coords_attributes(self._meta, self._pending.final.parent.absolute()))
        for name, content in files.items():
            file = self._pending.temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.to_bytes())

    def _close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        self._sync.finish()


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    # An empty column has a chunk of length 1, which `zarr_reading` expects.
    return tuple(max(1, length) for length in shape)
