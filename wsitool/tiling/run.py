"""Tiling many slides: each on its own, so that one that fails leaves the others alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsitool.errors import UsageError, WsitoolError
from wsitool.grid import TileSpec
from wsitool.progress import SILENT, Reporter
from wsitool.tiling.inputs import SlideInput, find_slides
from wsitool.tiling.results import RunResult, SlideResult, merge_slides_csv
from wsitool.tiling.slide_task import Format, SlideTask, available_threads, run_task

__all__ = ["tile_slide", "tile_slides"]


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

    Raises SlideError (or a kind of it) where it cannot be tiled and StoreError where the store exists and
    `overwrite` is false; nothing half-written is left. slides.csv is `tile_slides`' business.
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
    return run_task(task, reporter)


def tile_slides(
    slides: Sequence[str | Path | SlideInput],
    out_dir: str | Path,
    spec: TileSpec | None = None,
    *,
    format: Format = "hdf5",
    reader: str = "auto",
    default_mpp: float | None = None,
    group_regex: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    max_failures: int | None = None,
    reporter: Reporter = SILENT,
) -> RunResult:
    """Cut slides (files, folders, URLs, CSVs, or `SlideInput`s) into stores, and list them in slides.csv.

    A slide that fails is reported in its result and in slides.csv, the others are complete. Raises UsageError
    for inputs that cannot work together.
    """
    given = [item for item in slides if isinstance(item, SlideInput)]
    named = [item for item in slides if not isinstance(item, SlideInput)]
    found = (*given, *(find_slides(named, group_regex=group_regex) if named or not given else ()))
    classes = tuple(sorted({slide.label for slide in found if slide.label is not None}))
    folder = Path(out_dir)
    _make_folder(folder)
    results: list[SlideResult] = []
    with reporter.task("slides", total=len(found), unit="slides") as progress:
        for slide in found:
            task = SlideTask(
                slide=slide,
                out_dir=folder,
                spec=spec or TileSpec(),
                format=format,
                reader=reader,
                default_mpp=default_mpp,
                classes=classes,
                threads=available_threads(),
                overwrite=overwrite,
                max_failures=max_failures,
            )
            results.append(_try(task, reporter))
            merge_slides_csv(folder, results[-1:])
            progress.advance(note=slide.name)
    return RunResult(out_dir=str(folder), slides=tuple(results))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder '{folder}' cannot be made: {error.strerror or error}.") from error


def _try(task: SlideTask, reporter: Reporter) -> SlideResult:
    try:
        return run_task(task, reporter)
    except UsageError:
        raise
    except (WsitoolError, OSError, MemoryError) as error:
        reporter.warn(f"{task.slide.name} failed: {error}")
        return SlideResult(
            name=task.slide.name,
            path=task.slide.path,
            status="failed",
            reason=str(error) or type(error).__name__,
            group=task.slide.group or task.slide.name,
            label=task.slide.label or "",
        )
