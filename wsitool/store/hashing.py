"""The content hash: the same for the same patches, however they were batched, and whoever wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from wsitool.store.schema import StoreMeta

__all__ = ["RULE", "ContentHash", "covers_attributes", "patch_digest"]

RULE = "2:"
"""What hashes begin with that cover the attributes; those of stores written earlier begin with nothing."""

# What decides which patients are apart, at what scale, and what a label means. Where a slide lies may change.
_COVERED = (
    *("name", "group", "fingerprint", "classes", "level0_width", "level0_height", "patch_size"),
    *("patch_size_level0", "stride", "stride_level0", "mpp_level0", "mpp_requested", "mpp_effective"),
    *("level0_magnification", "target_magnification", "codec"),
)


def patch_digest(patch: bytes | memoryview) -> bytes:
    """XXH3-128 of a patch as stored: it finds damage ten times faster than SHA-256, and no more is asked."""
    return xxhash.xxh3_128_digest(patch)


def covers_attributes(content_hash: str) -> bool:
    """Whether a change of group, resolution, classes, size or name changes this hash."""
    return content_hash.startswith(RULE)


class ContentHash:
    """SHA-256 over the patches' lengths and digests, coords, labels and source names, in any batching.

    And over the attributes that decide leakage and scale, unless `meta` is None: the rule of earlier stores.
    """

    def __init__(self, meta: StoreMeta | None) -> None:
        self._meta = meta
        # A digest each, joined at the end: columns arrive interleaved by batch, and a single digest would
        # depend on the batches.
        self._columns = {name: hashlib.sha256() for name in ("patches", "coords", "labels", "sources")}

    def add_patches(self, patches: Iterable[bytes | memoryview], digests: Iterable[bytes]) -> None:
        """Feed stored patches and their `patch_digest`s in row order."""
        column = self._columns["patches"]
        for patch, digest in zip(patches, digests, strict=True):
            column.update(len(patch).to_bytes(8, "little") + digest)

    def add_rows(
        self, coords: NDArray[np.int64], labels: NDArray[np.int16] | None, sources: Sequence[str] | None
    ) -> None:
        """Feed the other columns of the same or any later rows, in row order.

        `coords` (B, 2), `labels` (B,), `sources` B names. Always with labels or never, and the same for
        sources.
        """
        # Little-endian whatever the machine, so that a store verifies on another.
        self._columns["coords"].update(coords.astype("<i8").tobytes())
        if labels is not None:
            self._columns["labels"].update(labels.astype("<i2").tobytes())
        if sources is not None:
            self._columns["sources"].update("".join(f"{name}\0" for name in sources).encode())

    def hexdigest(self) -> str:
        """The hash so far, in hex, `RULE` before it where it covers the attributes."""
        # Another beginning for each rule: a hash of one can never be mistaken for one of the other.
        digest = hashlib.sha256(b"wsitool store 1" if self._meta is None else b"wsitool store 2")
        for column in self._columns.values():
            digest.update(column.digest())
        if self._meta is None:
            return digest.hexdigest()
        digest.update(_attributes(self._meta))
        return RULE + digest.hexdigest()


def _attributes(meta: StoreMeta) -> bytes:
    values = {name: getattr(meta, name) for name in _COVERED}
    # a length is the same number whether it was given as 32 or 32.0, which the formats do not keep apart
    values = {name: float(value) if isinstance(value, int) else value for name, value in values.items()}
    return json.dumps(values, sort_keys=True).encode()
