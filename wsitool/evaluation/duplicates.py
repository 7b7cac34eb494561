"""Finding patches that are on both sides of a split although their names differ: the same tissue twice.

The hash is the perceptual hash of the 8x8 lowest frequencies of a 32x32 grey image (C. Zauner, 2010,
"Implementation and benchmarking of perceptual image hash functions"): 64 bits, near for near pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from skimage.transform import downscale_local_mean, resize

from wsitool.store.collection import Collection

__all__ = ["Hashes", "NearDuplicates", "hash_patches", "near_duplicates", "perceptual_hashes"]

Hashes = tuple[NDArray[np.uint64], NDArray[np.bool_]]
MAX_DISTANCE = 3
_BANDS = 4  # of 16 bits: two hashes at most 3 bits apart agree in at least one band
_SIDE = 32
_BATCH = 256
_LEAST_CONTRAST = 4.0  # grey levels; the hash of a blank patch is noise
_MOST_PAIRS = 10_000


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Pairs of rows (a, b, bits apart) whose pictures are almost the same; names of a few, to look at.

    Sorted by distance. The search ends early beyond 10,000 pairs, so that `count` is then a lower bound.
    """

    pairs: tuple[tuple[int, int, int], ...]
    examples: tuple[str, ...]

    @property
    def count(self) -> int:
        """Patches of `b` that have a near-duplicate in `a`."""
        return len({b for _, b, _ in self.pairs})

    def sentence(self) -> str:
        """What to tell the user, `a` being the training and `b` the test side."""
        return (
            f"{self.count} test patches look like training patches (perceptual hash), such as "
            f"{'; '.join(self.examples)}: if that is the same tissue, the test flatters."
        )


def perceptual_hashes(patches: NDArray[np.uint8]) -> Hashes:
    """Hash patches (B, P, P, 3): (B,) uint64, and whether each has contrast enough for a meaningful hash.

    `patches` are uint8 RGB. Pictures whose hashes differ in up to 3 of the 64 bits are near; those of too
    little contrast must not be compared.
    """
    # (B, P, P) float32
    gray = patches.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    small = _shrink(gray)
    # (B, 64): rows of coefficients, the mean brightness first.
    low = dctn(small, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(patches), 64)
    # the mean brightness is no structure: it is left out of the median, as in the original
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    # Eight bytes each, in the machine's order: hashes are compared within one run only.
    hashes = np.packbits(bits, axis=1).view(np.uint64).reshape(-1)
    # Of the small picture, in grey levels: fine noise is gone from it.
    return hashes, small.std(axis=(1, 2)) >= _LEAST_CONTRAST


def near_duplicates(
    a: Collection, b: Collection, *, known_a: Hashes | None = None, known_b: Hashes | None = None
) -> NearDuplicates:
    """Pairs of patches of `a` and `b` whose hashes are at most 3 bits apart.

    Each patch is read once, or not at all where its side's hashes (`hash_patches`) are given.
    """
    hashes_a, clear_a = known_a or hash_patches(a)
    hashes_b, clear_b = known_b or hash_patches(b)
    pairs: set[tuple[int, int, int]] = set()
    for band in range(_BANDS):
        # Only hashes that share a band are compared: all pairs would be len(a) * len(b).
        keys_a = _band(hashes_a, band)
        keys_b = _band(hashes_b, band)
        order = np.argsort(keys_a, kind="stable")
        # For each of b the run of rows of a with the same key, by bisection in the sorted keys.
        starts = np.searchsorted(keys_a[order], keys_b, side="left")
        ends = np.searchsorted(keys_a[order], keys_b, side="right")
        for row_b in np.flatnonzero((ends > starts) & clear_b):
            rows_a = order[starts[row_b] : ends[row_b]]
            # Bits that differ, of all 64.
            distance = np.bitwise_count(hashes_a[rows_a] ^ hashes_b[row_b])
            near = (distance <= MAX_DISTANCE) & clear_a[rows_a]
            # A pair may share several bands: the set has it once.
            pairs |= {
                (int(row), int(row_b), int(bits))
                for row, bits in zip(rows_a[near], distance[near], strict=True)
            }
            if len(pairs) > _MOST_PAIRS:  # enough to know; tissue that repeats so often needs a person
                break
    # The nearest first, and among equals those that come first in b: the examples shown are the most telling.
    ordered = tuple(sorted(pairs, key=lambda pair: (pair[2], pair[1], pair[0])))
    return NearDuplicates(pairs=ordered, examples=tuple(_name(a, b, pair) for pair in ordered[:3]))


def hash_patches(collection: Collection) -> Hashes:
    """`perceptual_hashes` of every patch of a collection, in its order."""
    # 256 patches of 224 px are 38 MB as bytes and 51 MB as grey floats.
    parts = [
        perceptual_hashes(collection.read(np.arange(start, min(start + _BATCH, len(collection)))))
        for start in range(0, len(collection), _BATCH)
    ]
    return np.concatenate([hashes for hashes, _ in parts]), np.concatenate([clear for _, clear in parts])


def _shrink(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    side = gray.shape[1]
    # Whole blocks are averaged exactly; `resize` filters and interpolates.
    if side % _SIDE == 0:
        factor = side // _SIDE
        small: NDArray[np.float32] = downscale_local_mean(gray, (1, factor, factor))
        return small
    resized = resize(gray, (len(gray), _SIDE, _SIDE), anti_aliasing=True, preserve_range=True)
    return resized.astype(np.float32)  # type: ignore[no-any-return]  # scikit-image is untyped


def _band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    return (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)


def _name(a: Collection, b: Collection, pair: tuple[int, int, int]) -> str:
    def place(collection: Collection, row: int) -> str:
        return f"{collection.stores[collection.store_index[row]].meta.name} row {collection.row[row]}"

    return f"{place(b, pair[1])} and {place(a, pair[0])}"
