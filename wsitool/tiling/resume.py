"""Whether a slide's store is there already, made from the same file in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import Reporter
from wsitool.base.urls import RemotePath
from wsitool.errors import CorruptStoreError, PluginError, SlideError, StoreError, UsageError
from wsitool.report.preview import preview_jpeg
from wsitool.slides.masks import find_tissue
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.readers import fingerprint
from wsitool.slides.spec import ADDED_OPTIONS, ADDED_READING, TileSpec
from wsitool.store.attributes import as_stored
from wsitool.store.opening import open_store
from wsitool.store.schema import Candidates, StoreMeta
from wsitool.tiling.labelling import count_labels
from wsitool.tiling.reopening import reopen
from wsitool.tiling.results import SlideResult, of_store
from wsitool.tiling.slide_task import SlideTask, store_bytes

__all__ = ["difference", "finished", "redraw_preview"]


def finished(task: SlideTask, reporter: Reporter) -> SlideResult | None:
    """The result of an earlier run if its store is what `task` would write, else None.

    Raises StoreError, saying what differs, where a store of another slide or with other parameters is in the
    way: a finished store is only replaced when asked to. A damaged store is redone; a preview that is not
    there is drawn.
    """
    if task.overwrite or not task.store.exists():
        return None
    try:
        with open_store(task.store) as store:
            meta, counts, content_hash = store.meta, store.counts, store.content_hash
            failures, candidates = len(store.failures), store.candidates
            psnr, note = store.psnr, store.note
            labels = store.labels
    except CorruptStoreError as error:
        reporter.warn(f"{task.slide.name} is tiled again: {error}")
        return None
    differs = difference(meta.params, task.params())
    # By content of the slide file, wherever it lies.
    if meta.fingerprint != fingerprint(task.slide.path):
        differs = "the slide file is another one now"
    if differs:
        raise StoreError(
            f"'{task.store}' exists and {differs}: pass --overwrite to replace it, or choose another --out."
        )
    there = isinstance(task.store, RemotePath) or task.preview.exists()
    if not there and not redraw_preview(task.preview, task.slide.path, meta, candidates, task.spec, labels):
        reporter.warn(f"The preview of {task.slide.name} is missing and could not be drawn again.")
    return SlideResult(
        name=task.slide.name,
        path=task.slide.path,
        status="skipped",
        reason=note or "",
        label=task.slide.label or "",
        store=str(task.store),
        unreadable=failures,
        labels=count_labels(labels, meta.classes),
        bytes=store_bytes(task.store),
        content_hash=content_hash,
        psnr=psnr,
        **of_store(meta, counts),
    )


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Which of the parameters `asked` for a store was made with others, in words; "" if with none."""
    defaults = {name: getattr(TileSpec, name) for name in ADDED_OPTIONS}
    defaults |= {name: as_stored(getattr(ReadOptions, name)) for name in ADDED_READING}
    defaults["coords"] = ""
    actual, expected = defaults | dict(stored), defaults | as_stored(asked)
    names = [name for name in expected if actual.get(name) != expected[name]]
    parts = [f"{name} {actual.get(name)!r} instead of {expected[name]!r}" for name in names]
    return f"was made with {', '.join(parts)}" if parts else ""


def redraw_preview(
    preview: Path,
    source: str | Path,
    meta: StoreMeta,
    candidates: Candidates,
    spec: TileSpec,
    labels: NDArray[np.int16] | None,
) -> bool:
    """Draw a store's preview from its slide at `source`; False where that is gone or another file."""
    try:
        with reopen(meta, source) as slide:
            # Its preview would show another slide's grid.
            if slide.info.fingerprint != meta.fingerprint:
                return False
            mask = find_tissue(slide, spec.tissue)
            preview_jpeg(
                preview, mask, candidates, meta.patch_size_level0, labels=labels, classes=meta.classes
            )
    # The reader or detector may be installed no more.
    except (SlideError, StoreError, UsageError, PluginError):
        return False
    return True
