"""The stains of stores, fitted once and kept beside each as <store>.stain.json; pixels stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import write_json
from wsitool.base.json_files import read_json
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import StoreError
from wsitool.stain.fit import Unfit, fit_stain, transform
from wsitool.store.collection import Collection
from wsitool.store.layout import Tally
from wsitool.store.reader import Reader
from wsitool.store.stain_table import STAIN_VALUES, StainMethod, StainNorm, StainTable

__all__ = [
    "SAMPLED_PATCHES",
    "sample_of",
    "stain_file",
    "stain_of_pixels",
    "stain_of_store",
    "table_of",
    "with_stain",
]

SAMPLED_PATCHES = 100
"""Patches of a slide that are looked at, spread evenly over it."""
_PIXELS_OF_A_PATCH = 2500
_VERSION = 1
_NAMED_AT_MOST = 8


def stain_file(store: str | Path) -> Path:
    """Where the stains of a store are kept."""
    store = Path(store)
    return store.with_name(f"{store.stem}.stain.json")


def sample_of(count: int) -> NDArray[np.int64]:
    """Which of `count` patches are looked at: (n,) int64, sorted."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLED_PATCHES)).round().astype(np.int64))


def stain_of_pixels(patches: NDArray[np.uint8]) -> dict[str, tuple[float, ...] | str]:
    """By method, the figures of patches (n, P, P, 3) uint8 or, as text, why there are none."""
    step = max(1, round((patches.shape[1] * patches.shape[2] / _PIXELS_OF_A_PATCH) ** 0.5))
    pixels = patches[:, step // 2 :: step, step // 2 :: step].reshape(-1, 3)
    return {method: _figures(pixels, method) for method in STAIN_VALUES}


def _figures(pixels: NDArray[np.uint8], method: StainMethod) -> tuple[float, ...] | str:
    try:
        # Six digits: the last bits of a fit differ from machine to machine.
        return tuple(float(f"{value:.6g}") for value in fit_stain(pixels, method))
    except Unfit as reason:
        return str(reason)


def stain_of_store(store: Reader) -> dict[str, tuple[float, ...] | str]:
    """The figures of a store, as `stain_of_pixels`: of its file where that is of these patches, else fitted.

    The file is written where the folder allows it; beside a slide that is streamed there is none.
    """
    if store.streamed:
        return _fitted(store)
    path, key = stain_file(store.path), f"{_VERSION}:{SAMPLED_PATCHES}:{store.content_hash}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = read_json(path)
        if kept["fitted_on"] == key:
            return {method: _checked(kept[method], method) for method in STAIN_VALUES}
    stains = _fitted(store)
    with contextlib.suppress(OSError):  # a folder that may only be read: fitted again next time
        write_json(path, {"name": store.meta.name, "fitted_on": key, **stains})
    return stains


def _fitted(store: Reader) -> dict[str, tuple[float, ...] | str]:
    rows = sample_of(len(store))
    patches = np.empty((len(rows), store.meta.patch_size, store.meta.patch_size, 3), np.uint8)
    tally = Tally() if store.streamed else None
    store.read_into(rows, patches, tally=tally)
    # Nobody has left damaged patches of a slide out yet.
    bad = [] if tally is None else [row for row, _ in tally.bad]
    return stain_of_pixels(np.delete(patches, bad, axis=0) if bad else patches)


def _checked(value: object, method: StainMethod) -> tuple[float, ...] | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise TypeError("figures are a list")
    return StainNorm(method=method, target=tuple(map(float, value)), source="").target


def with_stain(
    collection: Collection, norm: StainNorm | None, reporter: Reporter = SILENT, *, needed: bool = True
) -> Collection:
    """The same patches, which loaders normalise by `norm`; slides that cannot be are named and left alone.

    StoreError where none can be and it is `needed`.
    """
    if norm is None:
        return collection
    stores = collection.stores
    used = set(np.unique(collection.store_index).tolist())
    fits: list[tuple[float, ...] | str] = []
    with reporter.task("stains", total=len(used), unit="slides") as task:
        for index, store in enumerate(stores):
            fits.append(stain_of_store(store)[norm.method] if index in used else "no patch of it is used")
            task.advance(1 if index in used else 0)
    table = table_of(norm, fits)
    left = [
        f"{stores[i].meta.name} ({fit})" for i, fit in enumerate(fits) if i in used and isinstance(fit, str)
    ]
    if needed and used and len(left) == len(used):
        raise StoreError(f"The stains of no slide can be normalised: {_some(left)}: leave out --stain-norm.")
    if left:
        reporter.warn(f"Left as they are, not normalised by stain: {_some(left)}.")
    return collection.with_stain(table)


def table_of(norm: StainNorm, fits: Sequence[tuple[float, ...] | str]) -> StainTable:
    """What `norm` does to slides with these figures; those with a text instead are left as they are."""
    width = 9 if norm.method == "macenko" else 6
    values = np.zeros((len(fits), width), np.float32)
    for row, fit in enumerate(fits):
        if not isinstance(fit, str):
            values[row] = transform(norm.method, fit, norm.target)
    fitted = np.array([not isinstance(fit, str) for fit in fits])
    # Of the figures, not of what is computed from them: its last bits are the machine's.
    texts = (json.dumps([norm.method, norm.target, None if isinstance(fit, str) else fit]) for fit in fits)
    keys = tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return StainTable(norm=norm, values=values, fitted=fitted, keys=keys)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
