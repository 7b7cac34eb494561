"""Deciding again which candidates are kept, from the scores a store keeps of all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file
from wsitool.base.json_files import typed
from wsitool.base.lock import locked
from wsitool.base.partial import partial_path, replace_path
from wsitool.base.paths import path_of
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import read_table, table_bytes
from wsitool.curate.verifying import spec_of
from wsitool.errors import CorruptStoreError, NoTissueError, SlideError, StoreError, UsageError
from wsitool.slides.limits import decide
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import Limit, QualityThresholds, TileSpec
from wsitool.store.attributes import as_stored
from wsitool.store.opening import SUFFIXES, create_store, open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import Candidates, Rows
from wsitool.tiling.candidates import count_reasons
from wsitool.tiling.labelling import count_labels
from wsitool.tiling.reopening import reading_of, reopen
from wsitool.tiling.results import SLIDES_CSV, update_slides_csv
from wsitool.tiling.resume import redraw_preview
from wsitool.tiling.slide_task import SlideTask, available_threads, run_task, store_bytes

__all__ = ["RefilterResult", "refilter"]

# Patches a batch, 38 MB raw at 224 px.
_BATCH = 256
_UNREADABLE = "unreadable"
_IMAGES_CSV = "images.csv"
_PATIENCE_SECONDS = 120.0
# Which option moves which limit: option -> (score, reason, whether it is a least value).
_LIMITS = {
    "min_tissue": ("tissue", "low tissue", True),
    "min_sharpness": ("sharpness", "blurred", True),
    "max_pen": ("ink", "pen", False),
    "max_fold": ("fold", "fold", False),
    "max_white": ("near_white", "near white", False),
    "max_black": ("near_black", "near black", False),
}


@dataclass(frozen=True, kw_only=True)
class RefilterResult:
    """What changed: patches before and after, how many were dropped and added, and the new counts.

    `listed` says whether slides.csv or images.csv beside the store was brought up to date. `lost` is why the
    dropped patches could not be had again, "" where they could; only a dry run gets that far. `preview` is
    the picture beside the store ("" for none), `redrawn` whether it shows the new choice, for which the slide
    must be at hand. `there` is whether --out held this result already.
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
    lost: str = ""
    there: bool = False

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
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> RefilterResult:
    """Apply other thresholds to the store at `path`; the limits not named in `changes` stay as they were.

    `changes` maps min_tissue, min_sharpness, max_pen, max_fold, max_white, max_black to new values. The store
    is replaced in one step, or written to `out`: a store's name, or a folder to hold one of the same name,
    where a store that is this result already is left alone, and another replaced only with `overwrite`.
    Without `slide` patches can only be dropped, else StoreError; StoreError too where patches would be
    dropped in place that could not be cut again, as the images were imported or the slide is gone.
    NoTissueError where nothing would be left. Slides.csv, images.csv and the preview follow.

    >>> store = wsitool.tile("slide.svs", "patches", patch_size=128, level=0, min_tissue=0.1).slides[0].store
    >>> wsitool.refilter(store, {"min_tissue": 0.5}, dry_run=True).added
    0
    """
    _check_values(changes)
    path = Path(path)
    target = _target(path, path if out is None else Path(out))
    with open_store(path) as store:
        # Decided from the stored scores alone; no pixel is read.
        limits = _new_limits(store, changes)
        decided = _decide_again(store, limits)
        old, new = store.candidates.reason == 0, decided.reason == 0
        result = RefilterResult(
            store=str(target),
            before=int(old.sum()),
            after=int(new.sum()),
            dropped=int((old & ~new).sum()),
            added=int((new & ~old).sum()),
            counts=count_reasons(decided),
        )
        # In this order: what is damaged, what would be empty, what cannot be had.
        _check(store, result, slide)
        # In place only: a copy elsewhere loses nothing.
        if target == path and result.dropped:
            result = replace(result, lost=_why_lost(store, slide))
        if dry_run:
            return result
        if result.lost:
            raise StoreError(
                f"{path} would lose {result.dropped} patches for good, as {result.lost}: write the others "
                "elsewhere with --out."
            )
        if target != path and target.exists() and not overwrite:
            result = _check_same(store, target, limits, result)
        # Anew as a whole: pixels of added patches come from the slide, and rows must be in grid order.
        elif result.added and slide is not None:
            result = _cut_again(store, target, limits, Path(slide), result, reporter)
        else:
            _drop(store, target, limits, decided, new[old], reporter)
        source = path_of(store.meta.source) if slide is None else slide
    return _followed(path, target, source, result)


def _target(path: Path, out: Path) -> Path:
    return out if out.suffix in SUFFIXES else out / path.name


def _check(store: Reader, result: RefilterResult, slide: str | Path | None) -> None:
    candidates = store.candidates
    if not np.array_equal(candidates.coords[candidates.reason == 0], store.coords):
        raise CorruptStoreError(f"The patches of {store.path} are not its candidates: see 'wsitool verify'.")
    if not result.after:
        raise NoTissueError(
            f"None of the {len(candidates.reason)} candidates of {store.path} would be left: "
            "relax the limits."
        )
    if result.added and slide is None:
        raise StoreError(
            f"{result.added} candidates that {store.path} left out would now be kept, but their pixels are "
            "not in it: name the slide with --slide, or choose limits that only drop patches."
        )


def _why_lost(store: Reader, slide: str | Path | None) -> str:
    """Why patches dropped from the store could not be cut again, in words; "" where they could."""
    meta = store.meta
    # An imported store lacks the options of `tile`.
    try:
        spec_of(meta)
    except StoreError:
        return "its images were imported and cannot be cut again"
    source = path_of(meta.source) if slide is None else slide
    try:
        with reopen(meta, source) as opened:
            same = opened.info.fingerprint == meta.fingerprint
    except (SlideError, StoreError, UsageError, OSError):
        return f"its slide '{source}' cannot be read (--slide says where it is now)"
    return "" if same else f"its slide '{source}' is another file now (--slide says where it is)"


def _check_same(
    store: Reader, target: Path, limits: tuple[Limit, ...], result: RefilterResult
) -> RefilterResult:
    """StoreError unless the store that is at `target` is what would be written there."""
    # As it would read back; who wrote it does not matter.
    expected = replace(store.meta, params=as_stored(_params(store, limits)), wsitool_version="")
    try:
        with open_store(target) as there:
            same = replace(there.meta, wsitool_version="") == expected and there.counts == result.counts
    except StoreError:
        same = False
    if not same:
        raise StoreError(f"{target} exists already: pass --overwrite to replace it, or name another --out.")
    return replace(result, there=True)


def _followed(path: Path, target: Path, source: str | Path, result: RefilterResult) -> RefilterResult:
    """Bring slides.csv, images.csv and the preview beside `target` up to date, where they show that store."""
    with open_store(target) as store:
        meta, candidates, labels = store.meta, store.candidates, store.labels
        changed: dict[str, object] = {
            "kept": len(store),
            "unreadable": len(store.failures),
            "counts": json.dumps(result.counts),
            "labels": json.dumps(count_labels(store.labels, meta.classes)),
            "bytes": store_bytes(target),
            "raw_bytes": len(store) * meta.patch_size**2 * 3,
            "psnr": "" if store.psnr is None else store.psnr,
            "content_hash": store.content_hash,
        }
        # By image, for images.csv; stores of slides have no sources.
        kept = Counter([] if store.sources is None else store.sources.tolist())
    name = target.name.removesuffix(target.suffix)
    listed = False
    if (target.parent / SLIDES_CSV).is_file():
        with locked(target.parent / SLIDES_CSV, what="slides.csv", wait_seconds=_PATIENCE_SECONDS):
            listed = update_slides_csv(target.parent, name, changed)
    images = path.parent / _IMAGES_CSV
    if kept and images.is_file():
        # The table beside the target, which is another one with --out.
        with locked(target.parent / _IMAGES_CSV, what=_IMAGES_CSV, wait_seconds=_PATIENCE_SECONDS):
            listed = _list_images(images, path.name, target, kept)
    preview = target.parent / "previews" / f"{name}.jpg"
    if not preview.is_file():
        return replace(result, listed=listed)
    of_slide = meta.params.get("command") != "import"
    redrawn = of_slide and redraw_preview(preview, source, meta, candidates, spec_of(meta), labels)
    return replace(result, listed=listed, preview=str(preview), redrawn=redrawn)


def _list_images(images: Path, store: str, target: Path, kept: Mapping[str, int]) -> bool:
    """Put the rows that `images` has of a store into images.csv beside `target`, with what is `kept` now."""
    rows: dict[str, Mapping[str, str]] = {}
    headers: dict[str, str] = {}
    here = target.parent / _IMAGES_CSV
    # The target's own rows first, the store's over them.
    for file in dict.fromkeys(file for file in (here, images) if file.is_file()):
        table = read_table(file, needs=("file", "store", "kept"), exact=True)
        headers |= table.headers
        for row in table.rows:
            name = row.cells["file"]
            if file == here:
                rows[name] = row.cells
            if file == images and row.cells["store"] == store:
                rows[name] = {**row.cells, "store": target.name, "kept": str(kept.get(name, 0))}
    lines = [[rows[name].get(column, "") for column in headers] for name in sorted(rows)]
    replace_file(here, table_bytes([list(headers.values()), *lines]))
    return True


def _check_values(changes: Mapping[str, float]) -> None:
    """The same bounds as for tiling; UsageError."""
    # Made for their checks alone.
    TileSpec(min_tissue=changes.get("min_tissue", 0.0))
    QualityThresholds(**{option: value for option, value in changes.items() if option != "min_tissue"})


def _new_limits(store: Reader, changes: Mapping[str, float]) -> tuple[Limit, ...]:
    """The store's own limits, tissue first, with those in `changes` moved or added."""
    params = store.meta.params
    try:
        # Typed, as the attributes may be anybody's.
        least = typed(float, params.get("min_tissue"), "min_tissue")
        stored = typed(tuple[Limit, ...], params.get("limits", []), "limits")
    except ValueError as error:
        raise StoreError(f"{store.path} does not say by which limits it was cut ({error}).") from None
    limits = [Limit(score="tissue", reason="low tissue", at_least=least), *stored]
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
            # In its old place: the order of limits decides which reason is told.
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
        # After the limits of now, as unreadable ones were after those of then.
        reason[unreadable] = len(reasons)
        reasons = (*reasons, _UNREADABLE)
    return replace(old, reason=reason, reasons=reasons)


def _params(store: Reader, limits: tuple[Limit, ...]) -> dict[str, Any]:
    changed: dict[str, Any] = {"min_tissue": limits[0].at_least}
    # Stores of before the limits have no such key, and get one only with a limit.
    if "limits" in store.meta.params or len(limits) > 1:
        changed["limits"] = [asdict(limit) for limit in limits[1:]]
    return store.meta.params | changed


def _drop(
    store: Reader,
    target: Path,
    limits: tuple[Limit, ...],
    candidates: Candidates,
    stays: NDArray[np.bool_],
    reporter: Reporter,
) -> None:
    """Write the rows that stay (N,) to `target`, their stored bytes untouched."""
    rows = np.flatnonzero(stays)
    coords, tissue, labels, sources = store.coords, store.tissue, store.labels, store.sources
    meta = replace(store.meta, params=_params(store, limits))
    with (
        create_store(target, meta, overwrite=True, expected=len(rows)) as writer,
        reporter.task(target.name, total=len(rows), unit="patches") as progress,
    ):
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            writer.append(
                Rows(
                    # JPEG bytes as they are: decoding and encoding again would lose a little each time.
                    patches=store.read(batch) if meta.codec == "raw" else store.encoded(batch),
                    coords=coords[batch],
                    tissue=tissue[batch],
                    labels=None if labels is None else labels[batch],
                    sources=None if sources is None else sources[batch].tolist(),
                )
            )
            progress.advance(len(batch))
        counts = count_reasons(candidates)
        writer.finish(candidates, counts=counts, failures=store.failures, psnr=store.psnr, note=store.note)


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
    with reopen(store.meta, slide) as opened:
        # Compared before hours of cutting.
        if opened.info.fingerprint != store.meta.fingerprint:
            raise StoreError(f"'{slide}' is another file (or a changed one) than {store.path} was cut from.")
    if params.get("annotations"):
        raise StoreError(
            f"The labels of {store.path} came from annotations: tile the slide again with --annotations and "
            "the new limits."
        )
    if params.get("coords"):
        raise StoreError(
            f"The positions of {store.path} came from a file: tile the slide again with --coords, and filter "
            "that."
        )
    spec = replace(spec_of(store.meta), min_tissue=limits[0].at_least or 0.0, limits=limits[1:])
    try:
        group, reader = typed(str, params.get("group"), "group"), typed(str, params.get("reader"), "reader")
        # mypy knows no types as values; `typed` takes any annotation.
        label: str | None = typed(str | None, params.get("label"), "label")  # type: ignore[arg-type]
    except ValueError as error:
        raise StoreError(
            f"{store.path} does not say how it was cut ({error}): tile the slide again."
        ) from None
    # A folder beside the target: `run_task` makes store and preview in it, only the store is wanted.
    reading = reading_of(store.meta)
    with partial_path(target) as folder:
        task = SlideTask(
            slide=SlideInput(path=str(slide), group=group, label=label),
            out_dir=folder,
            spec=spec,
            format="zarr" if target.suffix == ".zarr" else "hdf5",
            reader=reader,
            default_mpp=reading.default_mpp,
            channels=reading.channels,
            icc=reading.icc,
            classes=store.meta.classes,
            threads=available_threads(),
        )
        done = run_task(task, reporter)
        # In one step, the old one goes with the folder.
        replace_path(Path(done.store), target)
    return replace(result, after=done.kept, counts=done.counts)
