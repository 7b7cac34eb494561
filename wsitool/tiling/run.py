"""Tiling many slides: each on its own, so that one that fails leaves the others alone."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from wsitool.annotations import LabelRule
from wsitool.errors import StoreError, UsageError
from wsitool.grid import TileSpec
from wsitool.interrupt import progress_on_stop
from wsitool.lock import locked
from wsitool.partial import remove_abandoned
from wsitool.paths import AnyPath, as_list
from wsitool.progress import SILENT, Reporter
from wsitool.report.files import check_writable
from wsitool.sentences import one_sentence
from wsitool.tiling.guarded import run_guarded, run_locked
from wsitool.tiling.inputs import SlideInput, find_slides
from wsitool.tiling.labelling import LabelPlan, plan_outlines
from wsitool.tiling.processes import run_in_processes
from wsitool.tiling.results import SLIDES_CSV, RunResult, SlideResult, merge_slides_csv
from wsitool.tiling.slide_task import Format, SlideTask, available_threads

__all__ = ["tile_slide", "tile_slides"]

_CSV_PATIENCE_SECONDS = 120.0
_CSV_PATIENCE_BETWEEN_SLIDES = 5.0


def tile_slide(
    path: str | Path,
    out_dir: str | Path,
    spec: TileSpec | None = None,
    *,
    format: Format = "hdf5",
    reader: str = "auto",
    default_mpp: float | None = None,
    group: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    max_failures: int | None = None,
    reporter: Reporter = SILENT,
) -> SlideResult:
    """Cut one slide into `out_dir`/<slide>.h5 or .zarr and draw its preview.

    A store that is complete and was made in the same way is left alone. Raises SlideError (or a kind of it)
    where the slide cannot be tiled and StoreError where a store made otherwise is in the way and `overwrite`
    is false, or another process writes it; nothing half-written is left. Does not touch slides.csv.
    """
    task = SlideTask(
        slide=SlideInput(path=str(path), group=group),
        out_dir=Path(out_dir),
        spec=spec or TileSpec(),
        format=format,
        reader=reader,
        default_mpp=default_mpp,
        threads=threads or available_threads(),
        overwrite=overwrite,
        max_failures=max_failures,
    )
    return run_locked(task, reporter)


def tile_slides(
    slides: AnyPath | SlideInput | Iterable[AnyPath | SlideInput],
    out_dir: str | Path,
    spec: TileSpec | None = None,
    *,
    format: Format = "hdf5",
    reader: str = "auto",
    default_mpp: float | None = None,
    group_regex: str | None = None,
    workers: int | None = None,
    shard: str | None = None,
    dask: str | None = None,
    overwrite: bool = False,
    max_failures: int | None = None,
    dry_run: bool = False,
    annotations: str | Path | None = None,
    label_map: str | Path | None = None,
    label_rule: LabelRule = "area",
    reporter: Reporter = SILENT,
) -> RunResult:
    """Cut slides (files, folders, URLs, CSVs, or `SlideInput`s) into stores, and list them in slides.csv.

    Several slides are tiled in `workers` processes (default: one per processor), a single one in this
    process; with `dask` (a scheduler's address) all on that cluster. `shard` "i/N" takes the i-th of N
    parts of the list. A slide whose store is complete and was made in the same way is skipped; one that fails
    is reported in its result and in slides.csv, the others are complete. `dry_run` writes nothing, and
    decodes nothing at full resolution. Raises UsageError for inputs that cannot work together.
    """
    items = as_list(slides, one=(SlideInput,))
    given = [item for item in items if isinstance(item, SlideInput)]
    named = [item for item in items if not isinstance(item, SlideInput)]
    searched = find_slides(named, group_regex=group_regex, reporter=reporter) if named or not given else ()
    found = (*given, *searched)
    classes = tuple(sorted({slide.label for slide in found if slide.label is not None}))
    labels = LabelPlan(classes=classes, outlines={}, problems={}, notes={})
    if annotations is None and label_map is not None:
        raise UsageError("--label-map says what region names mean: give the regions with --annotations.")
    if annotations is not None:
        # All slides count, not only those of this shard: every store must have the same classes.
        labels = plan_outlines(found, annotations, label_map, label_rule, reporter=reporter)
    chosen = _shard(found, shard)
    folder = Path(out_dir)
    if not dry_run:
        check_writable(folder)
    processes = min(workers or available_threads(), max(1, len(chosen)))
    tasks = [
        SlideTask(
            slide=replace(slide, problem=slide.problem or labels.problems.get(slide.name, "")),
            out_dir=folder,
            spec=spec or TileSpec(),
            format=format,
            reader=reader,
            default_mpp=default_mpp,
            classes=labels.classes,
            threads=max(1, available_threads() // processes),
            overwrite=overwrite,
            max_failures=max_failures,
            dry_run=dry_run,
            outlines=labels.outlines.get(slide.name),
        )
        for slide in chosen
    ]
    results: dict[int, SlideResult] = {}
    listing = _Listing(None if dry_run else folder, reporter)
    bar = reporter.task("slides", total=len(tasks), unit="slides") if len(tasks) > 1 else nullcontext()
    try:
        with (
            progress_on_stop(lambda: f"{len(results)} of {len(tasks)} slides done; run again to go on"),
            bar as progress,
            closing(_run(tasks, processes, dask, reporter)) as answers,
        ):
            for index, result in answers:
                note = labels.notes.get(result.name)
                if note and not result.failed:
                    result = replace(result, reason=f"{result.reason}; {note}" if result.reason else note)
                results[index] = result
                listing.add(result)
                if progress is not None:
                    progress.advance(note=result.name)
        listing.finish()
    finally:
        # Workers that were ended, or crashed, cannot clear up after themselves.
        if not dry_run:
            remove_abandoned(folder)
            remove_abandoned(folder / "previews")
    return RunResult(
        out_dir=str(folder),
        slides=tuple(results[i] for i in range(len(tasks))),
        unlisted=listing.failure,
    )


class _Listing:
    """slides.csv, brought up to date with each result; what cannot be written now comes with the next."""

    def __init__(self, folder: Path | None, reporter: Reporter) -> None:
        self._folder, self._reporter = folder, reporter
        self._waiting: list[SlideResult] = []
        self.failure = ""

    def add(self, result: SlideResult) -> None:
        self._waiting.append(result)
        self._write(_CSV_PATIENCE_BETWEEN_SLIDES)

    def finish(self) -> None:
        """Write what is still waiting; `failure` says why that could not be done."""
        self._write(_CSV_PATIENCE_SECONDS)

    def _write(self, patience: float) -> None:
        if self._folder is None or not self._waiting:
            return
        table = self._folder / SLIDES_CSV
        try:
            with locked(table, what="slides.csv", wait_seconds=patience):
                merge_slides_csv(self._folder, self._waiting, self._reporter)
        except (OSError, StoreError) as error:
            self.failure = one_sentence(error)
        else:
            self._waiting, self.failure = [], ""


def _run(
    tasks: Sequence[SlideTask], processes: int, dask: str | None, reporter: Reporter
) -> Generator[tuple[int, SlideResult]]:
    if dask is not None:
        from wsitool.tiling.cluster import run_on_cluster

        return run_on_cluster(tasks, address=dask)
    if len(tasks) > 1:
        return run_in_processes(tasks, workers=processes, reporter=reporter)
    return ((index, run_guarded(task, reporter)) for index, task in enumerate(tasks))


def _shard(slides: Sequence[SlideInput], shard: str | None) -> Sequence[SlideInput]:
    """Every N-th slide, so that a list sorted by size or date is dealt out evenly."""
    if shard is None:
        return slides
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard must be i/N with i from 1 to N, as in 2/8, got '{shard}'.")
    return slides[part - 1 :: parts]
