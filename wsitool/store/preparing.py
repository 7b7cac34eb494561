"""Patches on their way into a store: encoded and with their digests, which any thread may do beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import StoreError
from wsitool.store import jpeg
from wsitool.store.hashing import patch_digest
from wsitool.store.schema import Codec, Prepared, Sampling

__all__ = ["prepare"]


def prepare(
    patches: NDArray[np.uint8] | Sequence[bytes],
    *,
    codec: Codec,
    quality: int | None = None,
    sampling: Sampling = "420",
) -> Prepared:
    """Encode (B, P, P, 3) uint8 for `codec`, or take B encoded patches as they are, and digest them.

    StoreError where pixels are to become JPEG without a `quality`, or bytes are given for raw pixels.
    """
    data = _stored(patches, codec, quality, sampling)
    return Prepared(data=data, digests=[patch_digest(patch) for patch in data])


def _stored(
    patches: NDArray[np.uint8] | Sequence[bytes], codec: Codec, quality: int | None, sampling: Sampling
) -> Sequence[bytes | memoryview]:
    if not isinstance(patches, np.ndarray):
        if codec == "raw":
            raise StoreError("A store of codec 'raw' takes pixel arrays, got encoded bytes.")
        return patches
    if codec == "raw":
        # No copy where the block is contiguous: the views share its memory, which `Prepared` says.
        return [memoryview(patch).cast("B") for patch in np.ascontiguousarray(patches)]
    if quality is None:
        raise StoreError("A store of codec 'jpeg' needs StoreMeta.quality to encode patches.")
    return [jpeg.encode(patch, quality, sampling) for patch in patches]
