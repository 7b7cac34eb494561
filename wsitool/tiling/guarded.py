"""One slide of many: locked, resumed, and never able to end the run of the others."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from wsitool.base.lock import locked
from wsitool.base.partial import remove_abandoned
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.base.urls import RemotePath
from wsitool.errors import SlideError, StoreError, UsageError
from wsitool.slides.coordinates import PatchCoordinates
from wsitool.tiling.bucket import deliver
from wsitool.tiling.results import SlideResult
from wsitool.tiling.resume import finished
from wsitool.tiling.slide_task import SlideTask, run_task

__all__ = ["failed_result", "run_guarded", "run_locked"]

_PATIENCE_SECONDS = 5.0  # the workers of a killed run need a moment to notice


def run_guarded(task: SlideTask, reporter: Reporter = SILENT) -> SlideResult:
    """Tile one slide, or skip it where its store is complete; whatever goes wrong becomes a failed result.

    UsageError is raised, as it is the same for every slide, and so is an interrupt.
    """
    try:
        if task.slide.problem:
            raise SlideError(task.slide.problem)
        return run_locked(task, reporter)
    except UsageError:
        # Of the options, not of the slide: a thousand slides would fail for one reason.
        raise  # the same for every slide
    except Exception as error:  # noqa: BLE001 - around one slide of many
        return failed_result(task, one_sentence(error))


def run_locked(task: SlideTask, reporter: Reporter = SILENT) -> SlideResult:
    """`run_task` under the store's lock, unless an earlier run finished the same; raises what it raises."""
    task, positions = task.placed()
    if task.dry_run:
        return run_task(task, reporter, positions)
    task.out_dir.mkdir(parents=True, exist_ok=True)
    # The lock is of the store's name, so that two runs into one folder divide the slides.
    with locked(task.store, what=f"'{task.store}'", wait_seconds=_PATIENCE_SECONDS):
        # Under the lock: what is partial now is of a writer that is gone.
        remove_abandoned(task.out_dir)
        if task.bucket:
            return _into_bucket(task, reporter, positions)
        earlier = finished(task, reporter)
        # What is in the way now, if anything, is damaged or meant to be replaced.
        return (
            earlier if earlier is not None else run_task(replace(task, overwrite=True), reporter, positions)
        )


def _into_bucket(task: SlideTask, reporter: Reporter, positions: PatchCoordinates | None) -> SlideResult:
    there = replace(task, out_dir=RemotePath(task.bucket), bucket="")
    earlier = finished(there, reporter)
    if earlier is not None:
        return earlier
    made = None
    with suppress(StoreError):  # one that was made otherwise is nobody's
        made = finished(task, reporter)  # and could not be uploaded then
    if made is None:
        made = run_task(replace(task, overwrite=True), reporter, positions)
    deliver(task)
    return replace(made, status="done", store=str(there.store))


def failed_result(task: SlideTask, reason: str) -> SlideResult:
    """The result of a slide that has no store."""
    return SlideResult(
        name=task.slide.name,
        path=task.slide.path,
        status="failed",
        reason=reason.rstrip("."),
        group=task.slide.group or task.slide.name,
        label=task.slide.label or "",
    )
