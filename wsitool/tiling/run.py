"""Tiling many slides: each on its own, so that one that fails leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wsitool.base.cluster import for_workers, on_cluster
from wsitool.base.groups import group_clashes
from wsitool.base.interrupt import progress_on_stop
from wsitool.base.lock import locked
from wsitool.base.partial import remove_abandoned
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.planned import noted
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.base.shards import part_of
from wsitool.errors import StoreError, UsageError
from wsitool.slides.coordinates import check_coordinates
from wsitool.slides.masks import check_tissue
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers.channels import check_channels
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.slides.spec import TileSpec
from wsitool.tiling.bucket import Output
from wsitool.tiling.guarded import failed_result, run_guarded, run_locked
from wsitool.tiling.labelling import LabelPlan, plan_outlines
from wsitool.tiling.options import TileOptions
from wsitool.tiling.paip import masks_beside, without_masks
from wsitool.tiling.processes import run_in_processes
from wsitool.tiling.results import SLIDES_CSV, SlideResult, TileResult, merge_slides_csv
from wsitool.tiling.slide_task import SlideTask, available_threads

__all__ = ["tell_of_groups", "tile_slide", "tile_slides"]

_OF_ONE_SLIDE = ("format", "reader", "default_mpp", "channels", "icc", "overwrite", "max_failures", "coords")
# At the end there is time: many jobs of an array may queue for the table.
_CSV_PATIENCE_SECONDS = 120.0
_CSV_PATIENCE_BETWEEN_SLIDES = 5.0
_CSV_PAUSE = 10


def tile_slide(
    path: str | Path,
    out_dir: str | Path,
    spec: TileSpec | None = None,
    *,
    group: str | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> SlideResult:
    """Cut one slide into `out_dir`/<slide>.h5 or .zarr and draw its preview.

    `options` are those of `TileOptions` that concern one slide: format, reader, default_mpp, channels, icc,
    overwrite, max_failures and coords. `threads` decode, by default one per processor.
    A store that is complete and was made in the same way is left alone. Raises SlideError (or a kind of it)
    where the slide cannot be tiled and StoreError where a store made otherwise is in the way and `overwrite`
    is false, or another process writes it; nothing half-written is left. Does not touch slides.csv.
    """
    if several := sorted(set(options) - set(_OF_ONE_SLIDE)):
        raise UsageError(f"tile_slide has no {', '.join(several)}: it takes {', '.join(_OF_ONE_SLIDE)}.")
    settings = TileOptions(**options)
    if settings.coords is not None:
        check_coordinates(settings.coords, spec or TileSpec(), 1)
    output = Output.of(out_dir)
    task = SlideTask(
        slide=SlideInput(path=str(path), group=group),
        out_dir=output.folder,
        bucket=output.url,
        spec=spec or TileSpec(),
        threads=threads or available_threads(),
        **_of_one_slide(settings),
    )
    return run_locked(task, reporter)


def tile_slides(
    slides: AnyPath | SlideInput | Iterable[AnyPath | SlideInput],
    out_dir: str | Path,
    spec: TileSpec | None = None,
    *,
    reporter: Reporter = SILENT,
    **options: Any,
) -> TileResult:
    """Cut slides (files, folders, URLs, CSVs, or `SlideInput`s) into stores, and list them in slides.csv.

    `out_dir` may be a URL of a bucket (s3://BUCKET/FOLDER): each store is made on this machine and uploaded.

    `options` are the fields of `TileOptions`. Several slides are tiled in `workers` processes (default: one
    per processor), a single one in this process; with `dask` all on that cluster. `shard` "i/N" takes the
    i-th of N parts of the list. A slide whose store is complete and was made in the same way is skipped; one
    that fails is reported in its result and in slides.csv, the others are complete. `dry_run` writes nothing,
    and decodes nothing at full resolution. `coords` names positions to cut instead of a grid: all of them, at
    the size and resolution the file states. Raises UsageError for inputs that cannot work together.
    """
    settings = TileOptions.from_dict(options, what="tile_slides")
    READERS.check(settings.reader)
    check_tissue((spec or TileSpec()).tissue)
    check_channels(settings.channels)
    inputs = _inputs(slides, settings, reporter)
    if settings.coords is not None:
        check_coordinates(settings.coords, spec or TileSpec(), len(inputs))
    labels = _labels(inputs, settings, reporter)
    part = part_of(inputs, settings.shard)
    output = Output.of(out_dir, settings.shard)
    if not settings.dry_run:
        output.check()
    # After what can stop the command: an error stands alone.
    tell_of_groups(inputs, reporter)
    # No more processes than slides.
    processes = min(settings.workers or available_threads(), max(1, len(part)))
    # The processors divided: the decoding threads of all processes together fill the machine once.
    threads = max(1, available_threads() // processes)
    tasks = [_task(slide, labels, output, spec or TileSpec(), settings, threads) for slide in inputs]
    mine = part_of(tasks, settings.shard)
    if settings.dry_run or output.url:
        return _tile(mine, output, labels, settings, processes, reporter)
    made = {task.slide.name: task.store for task in tasks}
    with noted(output.folder, "tile", made, whole=len(mine) == len(tasks)):
        return _tile(mine, output, labels, settings, processes, reporter)


def _of_one_slide(options: TileOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _OF_ONE_SLIDE}


def _inputs(
    slides: AnyPath | SlideInput | Iterable[AnyPath | SlideInput], options: TileOptions, reporter: Reporter
) -> tuple[SlideInput, ...]:
    items = as_list(slides, one=(SlideInput,))
    given = [item for item in items if isinstance(item, SlideInput)]
    named = [item for item in items if not isinstance(item, SlideInput)]
    # `find_slides` of nothing is an error, of which there is none here.
    found = (
        () if not named and given else find_slides(named, group_regex=options.group_regex, reporter=reporter)
    )
    return (*given, *(without_masks(found) if options.dataset == "paip" else found))


def tell_of_groups(slides: Sequence[SlideInput], reporter: Reporter) -> None:
    """Warn where slides have no patients, or patients whose names differ by little."""
    if len(slides) > 1 and not any(slide.group for slide in slides):
        reporter.warn(
            "Every slide is a group (patient) of its own: if a patient has several, say so with "
            "--group-regex or a table's column group."
        )
    if clashes := group_clashes(slide.group for slide in slides if slide.group):
        reporter.warn(clashes)


def _labels(slides: Sequence[SlideInput], options: TileOptions, reporter: Reporter) -> LabelPlan:
    """The classes of all slides, not only of those of this shard: every store must have the same."""
    if options.dataset == "paip":
        if options.annotations is not None:
            raise UsageError("--dataset paip has its annotations beside the slides: leave out --annotations.")
        plan = plan_outlines(slides, None, options.label_map, options.label_rule, reporter=reporter)
        masks = {slide.name: masks_beside(slide) for slide in slides}
        outlines = {name: replace(one, masks=masks[name]) for name, one in plan.outlines.items()}
        return replace(plan, outlines=outlines)
    if options.annotations is not None:
        location, rule = options.annotations, options.label_rule
        return plan_outlines(slides, location, options.label_map, rule, reporter=reporter)
    if options.label_map is not None:
        raise UsageError("--label-map says what region names mean: give the regions with --annotations.")
    # Sorted, so that every shard numbers the classes alike.
    classes = tuple(sorted({slide.label for slide in slides if slide.label is not None}))
    return LabelPlan(classes=classes, outlines={}, problems={}, notes={})


def _task(
    slide: SlideInput, labels: LabelPlan, output: Output, spec: TileSpec, options: TileOptions, threads: int
) -> SlideTask:
    return SlideTask(
        slide=replace(slide, problem=slide.problem or labels.problems.get(slide.name, "")),
        out_dir=output.folder,
        bucket=output.url,
        spec=spec,
        classes=labels.classes,
        threads=threads,
        **_of_one_slide(options),
        dry_run=options.dry_run,
        outlines=labels.outlines.get(slide.name),
    )


def _tile(
    tasks: Sequence[SlideTask],
    output: Output,
    labels: LabelPlan,
    options: TileOptions,
    processes: int,
    reporter: Reporter,
) -> TileResult:
    """Run the tasks and list their results as they come."""
    # By position in the list, as they come in any order.
    results: dict[int, SlideResult] = {}
    listing = _Listing(None if options.dry_run else output, reporter)
    bar = reporter.task("slides", total=len(tasks), unit="slides") if len(tasks) > 1 else nullcontext()
    try:
        with (
            progress_on_stop(lambda: f"{len(results)} of {len(tasks)} slides done; run again to go on"),
            bar as progress,
            # Closing the generator ends the workers, also where this block is left by an error.
            closing(_run(tasks, processes, options.dask, reporter)) as answers,
        ):
            for index, result in answers:
                note = labels.notes.get(result.name)
                # A failed slide has a reason of its own.
                if note and not result.failed:
                    result = replace(result, reason=f"{result.reason}; {note}" if result.reason else note)
                results[index] = result
                listing.add(result)
                if progress is not None:
                    progress.advance(note=result.name)
        listing.finish()
    finally:
        # Workers that were ended, or crashed, cannot clear up after themselves.
        if not options.dry_run:
            remove_abandoned(output.folder)
            remove_abandoned(output.folder / "previews")
            output.clear()
    return TileResult(
        out=output.path,
        slides=tuple(results[i] for i in range(len(tasks))),
        unlisted=listing.failure,
    )


class _Listing:
    """slides.csv, brought up to date as results come; what cannot be written now comes with the next.

    The table is written as a whole. Of ten thousand slides that takes longer than to tile a small one, so it
    waits `_CSV_PAUSE` times as long as the last writing took.
    """

    def __init__(self, output: Output | None, reporter: Reporter) -> None:
        self._output, self._reporter = output, reporter
        self._waiting: list[SlideResult] = []
        self._next = 0.0
        self.failure = ""

    def add(self, result: SlideResult) -> None:
        self._waiting.append(result)
        if time.monotonic() >= self._next:
            self._write(_CSV_PATIENCE_BETWEEN_SLIDES)

    def finish(self) -> None:
        """Write what is still waiting; `failure` says why that could not be done."""
        self._write(_CSV_PATIENCE_SECONDS)

    def _write(self, patience: float) -> None:
        if self._output is None or not self._waiting:
            return
        table = self._output.folder / SLIDES_CSV
        began = time.monotonic()
        try:
            with locked(table, what="slides.csv", wait_seconds=patience):
                self._output.fetch_table()
                merge_slides_csv(self._output.folder, self._waiting, self._reporter)
                self._output.send_table()
        except (OSError, StoreError) as error:
            # The stores are there all the same: the table can be brought up to date by the next run.
            self.failure = one_sentence(error)
        else:
            self._waiting, self.failure = [], ""
        ended = time.monotonic()
        self._next = ended + _CSV_PAUSE * (ended - began)


def _run(
    tasks: Sequence[SlideTask], processes: int, dask: str | None, reporter: Reporter
) -> Generator[tuple[int, SlideResult]]:
    if dask is not None:
        return _on_cluster(tasks, dask)
    if len(tasks) > 1:
        return run_in_processes(tasks, workers=processes, reporter=reporter)
    # One slide has the whole machine, and no process to start.
    return ((index, run_guarded(task, reporter)) for index, task in enumerate(tasks))


def _on_cluster(tasks: Sequence[SlideTask], address: str) -> Generator[tuple[int, SlideResult]]:
    texts, names = [_as_there(task).to_json() for task in tasks], [task.slide.name for task in tasks]
    for index, answer in on_cluster(_remote, texts, names, address=address):
        task = tasks[index]
        if isinstance(answer, str):
            yield index, failed_result(task, answer)
        else:
            result = SlideResult(**answer)
            # In the words of who asked, whatever the worker's folder.
            yield index, replace(result, path=task.slide.path, store=result.store and str(task.store))


def _as_there(task: SlideTask) -> SlideTask:
    """The same for a worker, which runs in another folder."""
    slide = replace(task.slide, path=for_workers(task.slide.path))
    return replace(task, slide=slide, out_dir=task.out_dir.absolute(), coords=for_workers(task.coords))


def _remote(task: str) -> dict[str, Any]:
    return asdict(run_guarded(SlideTask.from_json(task)))
