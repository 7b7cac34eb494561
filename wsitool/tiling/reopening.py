"""Opening the slide that a store was cut from, as it was opened then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsitool.base.json_files import typed
from wsitool.errors import StoreError
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.slides.spec import ADDED_READING, ReadOptions
from wsitool.store.schema import StoreMeta

__all__ = ["reading_of", "reopen"]


def reading_of(meta: StoreMeta) -> ReadOptions:
    """How a store's slide was read; StoreError where the store states what cannot be."""
    mpp: Any = meta.params.get("default_mpp")
    # A bool is no resolution; what is out of bounds is as good as none.
    known = type(mpp) in (int, float) and 0 < mpp < 1000
    values: dict[str, Any] = {"reader": meta.reader, "default_mpp": float(mpp) if known else None}
    values |= {name: meta.params[name] for name in ADDED_READING if name in meta.params}
    try:
        return typed(ReadOptions, values)
    except ValueError as error:
        raise StoreError(f"The store '{meta.name}' states a reading that cannot be: {error}.") from None


def reopen(meta: StoreMeta, path: str | Path, *, reader: str = "") -> TiledSlide:
    """Open the slide at `path` as a store's was, by another `reader` where one is named."""
    how = reading_of(meta).how()
    return open_slide(path, **(how | {"reader": reader} if reader else how))
