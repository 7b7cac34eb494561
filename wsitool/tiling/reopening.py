"""Opening the slide that a store was cut from, as it was opened then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsitool.base.json_files import typed
from wsitool.base.urls import is_url
from wsitool.errors import PluginError, SlideError, StoreError, UsageError
from wsitool.slides.masks import find_tissue
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.slides.spec import ADDED_READING
from wsitool.slides.tissue import TissueMask
from wsitool.slides.tissue_registry import DEFAULT_TISSUE
from wsitool.store.schema import StoreMeta

__all__ = ["known_slide", "reading_of", "reopen", "tissue_of_store"]


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


def known_slide(meta: StoreMeta) -> TiledSlide | None:
    """The slide of a store, open, where its file is still there and the same; never from the network."""
    try:
        if is_url(meta.source) or not Path(meta.source).exists():
            return None
        slide = reopen(meta, meta.source)
    except (OSError, ValueError, SlideError, StoreError, UsageError, PluginError):
        return None
    if slide.info.fingerprint != meta.fingerprint:
        slide.close()
        return None
    return slide


def tissue_of_store(meta: StoreMeta) -> TissueMask | None:
    """The tissue that a store's patches were looked for in, found again; None where its slide is away.

    Costs what finding it cost.
    """
    slide = known_slide(meta)
    if slide is None:
        return None
    with slide:
        try:
            return find_tissue(slide, str(meta.params.get("tissue") or DEFAULT_TISSUE))
        except (SlideError, StoreError, UsageError, PluginError):
            return None
