"""Deciding again which candidates are kept, from the scores a store keeps of all of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import NoTissueError, StoreError
from wsitool.grid import Limit, decide
from wsitool.lock import locked
from wsitool.progress import SILENT, Reporter
from wsitool.readers import open_with
from wsitool.store import create_store, open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import Candidates, Rows, StoreMeta
from wsitool.tiling.inputs import SlideInput
from wsitool.tiling.labelling import count_labels
from wsitool.tiling.results import SLIDES_CSV, update_slides_csv
from wsitool.tiling.resume import redraw_preview
from wsitool.tiling.slide_task import SlideTask, available_threads, run_task, store_bytes
from wsitool.verify import spec_of

__all__ = ["RefilterResult", "refilter"]

_BATCH = 256
_UNREADABLE = "unreadable"
_PATIENCE_SECONDS = 120.0
# Which option moves which limit: option -> (score, reason, whether it is a least value).
_LIMITS = {
    "min_tissue": ("tissue", "low tissue", True),
    "min_sharpness": ("sharpness", "blurred", True),
    "max_pen": ("pen", "pen", False),
    "max_fold": ("fold", "fold", False),
    "max_white": ("near_white", "near white", False),
    "max_black": ("near_black", "near black", False),
}


@dataclass(frozen=True, kw_only=True)
class RefilterResult:
    """What changed: patches before and after, how many were dropped and added, and the new counts.

    `listed` says whether slides.csv beside the store was brought up to date. `preview` is the picture beside
    the store ("" for none), `redrawn` whether it shows the new choice, for which the slide must be at hand.
    """

    store: str
    before: int
    after: int
    dropped: int
    added: int
    counts: dict[str, int]
    listed: bool = False
    preview: str = ""
    redrawn: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return asdict(self)


def refilter(
    path: str | Path,
    changes: Mapping[str, float],
    *,
    out: str | Path | None = None,
    slide: str | Path | None = None,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> RefilterResult:
    """Apply other thresholds to the store at `path`; the limits not named in `changes` stay as they were.

    `changes` maps min_tissue, min_sharpness, max_pen, max_fold, max_white, max_black to new values. The store
    is replaced in one step, or written to `out`. Without the slide patches can only be dropped: StoreError
    where rejected candidates would now be kept and `slide` is not given, or is another file. NoTissueError
    where nothing would be left; then nothing is changed. Slides.csv and the preview beside the store follow.
    """
    path, target = Path(path), Path(path if out is None else out)
    if target != path and target.exists():
        raise StoreError(f"{target} exists already: delete it, or name another --out.")
    with open_store(path) as store:
        limits = _new_limits(store.meta, changes)
        found = _decide_again(store, limits)
        old, new = store.candidates.reason == 0, found.reason == 0
        result = RefilterResult(
            store=str(target),
            before=int(old.sum()),
            after=int(new.sum()),
            dropped=int((old & ~new).sum()),
            added=int((new & ~old).sum()),
            counts=_counts(found),
        )
        if not result.after:
            raise NoTissueError(
                f"None of the {len(new)} candidates of {path} would be left: relax the limits."
            )
        if result.added and slide is None:
            raise StoreError(
                f"{result.added} candidates that {path} left out would now be kept, but their pixels are not "
                "in it: name the slide with --slide, or choose limits that only drop patches."
            )
        if dry_run:
            return result
        if result.added and slide is not None:
            result = _cut_again(store, target, limits, Path(slide), result, reporter)
        else:
            _drop(store, target, limits, found, new[old], reporter)
        source = store.meta.source if slide is None else slide
    return _followed(target, source, result)


def _followed(target: Path, source: str | Path, result: RefilterResult) -> RefilterResult:
    """Bring slides.csv and the preview beside `target` up to date, where they list and show that store."""
    with open_store(target) as store:
        meta, found = store.meta, store.candidates
        changed: dict[str, object] = {
            "kept": len(store),
            "unreadable": len(store.failures),
            "counts": json.dumps(result.counts),
            "labels": json.dumps(count_labels(store.labels, meta.classes)),
            "bytes": store_bytes(target),
            "raw_bytes": len(store) * meta.patch_size**2 * 3,
            "content_hash": store.content_hash,
        }
    name = target.name.removesuffix(target.suffix)
    listed = False
    if (target.parent / SLIDES_CSV).is_file():
        with locked(target.parent / SLIDES_CSV, what="slides.csv", wait_seconds=_PATIENCE_SECONDS):
            listed = update_slides_csv(target.parent, name, changed)
    preview = target.parent / "previews" / f"{name}.jpg"
    if not preview.is_file():
        return replace(result, listed=listed)
    of_slide = meta.params.get("command") != "import"
    redrawn = of_slide and redraw_preview(preview, source, meta, found, spec_of(meta))
    return replace(result, listed=listed, preview=str(preview), redrawn=redrawn)


def _new_limits(meta: StoreMeta, changes: Mapping[str, float]) -> tuple[Limit, ...]:
    """The store's own limits, tissue first, with those in `changes` moved or added."""
    limits = [
        Limit(score="tissue", reason="low tissue", at_least=meta.params["min_tissue"]),
        *(Limit(**limit) for limit in meta.params.get("limits", ())),
    ]
    for option, value in changes.items():
        score, reason, is_least = _LIMITS[option]
        limit = Limit(
            score=score,
            reason=reason,
            at_least=value if is_least else None,
            at_most=None if is_least else value,
        )
        places = [i for i, old in enumerate(limits) if old.score == score]
        if places:
            limits[places[0]] = limit
        else:
            limits.append(limit)
    return tuple(limits)


def _decide_again(store: Reader, limits: tuple[Limit, ...]) -> Candidates:
    old = store.candidates
    scores: dict[str, NDArray[np.float32]] = {"tissue": old.tissue, **old.scores}
    missing = [limit.score for limit in limits if limit.score not in scores]
    if missing:
        raise StoreError(
            f"{store.path} holds no score '{missing[0]}', it has {', '.join(scores)}: tile the slide again "
            "with that limit."
        )
    reason, reasons = decide(scores, limits)
    if _UNREADABLE in old.reasons:
        # What could not be read then cannot be kept now.
        unreadable = (old.reason == old.reasons.index(_UNREADABLE)) & (reason == 0)
        reason[unreadable] = len(reasons)
        reasons = (*reasons, _UNREADABLE)
    return replace(old, reason=reason, reasons=reasons)


def _counts(found: Candidates) -> dict[str, int]:
    tally = np.bincount(found.reason, minlength=len(found.reasons))
    return {reason: int(count) for reason, count in zip(found.reasons, tally, strict=True)}


def _params(store: Reader, limits: tuple[Limit, ...]) -> dict[str, Any]:
    changed: dict[str, Any] = {"min_tissue": limits[0].at_least}
    if "limits" in store.meta.params or len(limits) > 1:
        changed["limits"] = [asdict(limit) for limit in limits[1:]]
    return store.meta.params | changed


def _drop(
    store: Reader,
    target: Path,
    limits: tuple[Limit, ...],
    found: Candidates,
    stays: NDArray[np.bool_],
    reporter: Reporter,
) -> None:
    """Write the rows that stay (N,) to `target`, their stored bytes untouched."""
    rows = np.flatnonzero(stays)
    coords, tissue, labels, sources = store.coords, store.tissue, store.labels, store.sources
    meta = replace(store.meta, params=_params(store, limits))
    with (
        create_store(target, meta, overwrite=target == store.path, expected=len(rows)) as writer,
        reporter.task(target.name, total=len(rows), unit="patches") as progress,
    ):
        for first in range(0, len(rows), _BATCH):
            chosen = rows[first : first + _BATCH]
            writer.append(
                Rows(
                    patches=store.read(chosen) if meta.codec == "raw" else store.encoded(chosen),
                    coords=coords[chosen],
                    tissue=tissue[chosen],
                    labels=None if labels is None else labels[chosen],
                    sources=None if sources is None else sources[chosen].tolist(),
                )
            )
            progress.advance(len(chosen))
        writer.finish(found, counts=_counts(found), failures=store.failures)


def _cut_again(
    store: Reader,
    target: Path,
    limits: tuple[Limit, ...],
    slide: Path,
    result: RefilterResult,
    reporter: Reporter,
) -> RefilterResult:
    """Tile the slide anew with the new limits, beside `target`, and put the store in its place."""
    params = store.meta.params
    with open_with(slide, reader=store.meta.reader, default_mpp=params.get("default_mpp")) as opened:
        if opened.info.fingerprint != store.meta.fingerprint:
            raise StoreError(f"'{slide}' is another file (or a changed one) than {store.path} was cut from.")
    if params.get("annotations"):
        raise StoreError(
            f"The labels of {store.path} came from annotations: tile the slide again with --annotations and "
            "the new limits."
        )
    spec = replace(spec_of(store.meta), min_tissue=limits[0].at_least or 0.0, limits=limits[1:])
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".refilter-") as folder:
        task = SlideTask(
            slide=SlideInput(path=str(slide), group=params["group"], label=params["label"]),
            out_dir=Path(folder),
            spec=spec,
            format="zarr" if target.suffix == ".zarr" else "hdf5",
            reader=params["reader"],
            default_mpp=params["default_mpp"],
            classes=tuple(params["classes"]),
            threads=available_threads(),
        )
        done = run_task(task, reporter)
        fresh = Path(done.store)
        if target.is_dir():
            aside = Path(folder) / f"old{target.suffix}"
            target.rename(aside)
        fresh.replace(target)
    return replace(result, after=done.kept, counts=done.counts)
