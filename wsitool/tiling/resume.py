"""Whether a slide's store is there already, made from the same file in the same way."""

from __future__ import annotations

import json
from typing import Any

from wsitool.errors import CorruptStoreError, StoreError
from wsitool.progress import Reporter
from wsitool.readers import fingerprint
from wsitool.store import open_store
from wsitool.tiling.labelling import count_labels
from wsitool.tiling.results import SlideResult
from wsitool.tiling.slide_task import SlideTask, store_bytes

__all__ = ["finished"]


def finished(task: SlideTask, reporter: Reporter) -> SlideResult | None:
    """The result of an earlier run if its store is what `task` would write, else None.

    Raises StoreError, saying what differs, where a store of another slide or with other parameters is in the
    way: a finished store is only replaced when asked to. A damaged store is redone.
    """
    if task.overwrite or not task.store.exists():
        return None
    try:
        with open_store(task.store) as store:
            meta, counts, content_hash = store.meta, store.counts, store.content_hash
            failures, number = len(store.failures), len(store)
            labels = count_labels(store.labels, meta.classes)
    except CorruptStoreError as error:
        reporter.warn(f"{task.slide.name} is tiled again: {error}")
        return None
    difference = _difference(meta.params, task.params())
    if meta.fingerprint != fingerprint(task.slide.path):
        difference = "the slide file is another one now"
    if difference:
        raise StoreError(
            f"'{task.store}' exists and {difference}: pass --overwrite to replace it, or choose "
            "another --out."
        )
    return SlideResult(
        name=task.slide.name,
        path=task.slide.path,
        status="skipped",
        group=meta.group,
        label=task.slide.label or "",
        store=str(task.store),
        reader=meta.reader,
        width=meta.level0_width,
        height=meta.level0_height,
        mpp=meta.mpp_level0,
        level=meta.level,
        mpp_effective=meta.mpp_effective,
        codec=meta.codec,
        candidates=sum(counts.values()),
        kept=number,
        unreadable=failures,
        counts=counts,
        labels=labels,
        bytes=store_bytes(task.store),
        raw_bytes=number * meta.patch_size**2 * 3,
        fingerprint=meta.fingerprint,
        content_hash=content_hash,
    )


def _difference(stored: dict[str, Any], asked: dict[str, Any]) -> str:
    """Which parameters differ, in words; "" if none does."""
    asked = json.loads(json.dumps(asked))
    names = [name for name in asked if stored.get(name) != asked[name]]
    parts = [f"{name} {stored.get(name)!r} instead of {asked[name]!r}" for name in names]
    return f"was made with {', '.join(parts)}" if parts else ""
