"""Stores for other programs: positions for slide tools, images for training code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsitool.base.files import check_writable, write_json
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.partial import remove_abandoned
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.curate.export.formats import EXPORTS, Export
from wsitool.curate.export.parts import (
    RECORD,
    ExportOutcome,
    ExportPart,
    ExportPlan,
    ExportSource,
    Record,
    named,
    source_of,
)
from wsitool.curate.splitting import sides_at
from wsitool.errors import PluginError, StoreError, UsageError, WsitoolError
from wsitool.store.collection import union_of_classes
from wsitool.store.opening import find_stores, open_store

__all__ = ["CLASSES_FILE", "ExportResult", "export_stores"]

CLASSES_FILE = "classes.json"
_Failed = list[tuple[str, WsitoolError]]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Where the export is, the stores and patches in it, and their files relative to `out`.

    `failed` is (store or shard, reason) for what is not or not wholly there. `skipped` counts the parts that
    an earlier run had finished, `left_out` the patches without a label that imagefolder has no place for.
    `notes` are sentences on what is there.
    """

    out: Path
    stores: int
    patches: int
    files: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()
    skipped: int = 0
    left_out: int = 0
    notes: tuple[str, ...] = ()


def export_stores(
    path: AnyPath | Iterable[AnyPath],
    out_dir: str | Path,
    to: str | Export,
    *,
    shard_size: int = 10_000,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Export the store at `path`, or all stores in that folder (or several), into the folder `out_dir`.

    `to` is a format of `EXPORTS`, or an installed one. JPEG patches are written as stored, never compressed
    again; raw ones become PNG. webdataset shards hold at most `shard_size` samples, in an order drawn by
    `seed`. `classes.json` says which number each class has, in all stores the same.

    What an earlier run finished of the same stores is left alone, the rest is done. A store that cannot be
    exported does not stop the others. Raises UsageError if `out_dir` holds something else (`overwrite`
    replaces an export made otherwise), StoreError if no store can be exported or another process is at it.

    >>> result = wsitool.export_stores("stores", "folders", to="imagefolder")
    >>> result.stores, result.patches
    (2, 12)
    """
    out = Path(out_dir)
    export = to if isinstance(to, Export) else EXPORTS.get(to)
    if shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1, got {shard_size}.")
    # Of a split both sides: what is where stands in the table of positions.
    places = [side for place in as_list(path) for side in sides_at(place)]
    stores = find_stores(places)
    if not stores:
        where = ", ".join(f"'{folder}'" for folder in places) or "nowhere"
        raise StoreError(f"There is no patch store at {where}: expected a .h5 or .zarr, or a folder of them.")
    _check_folder(out)
    sources, broken = _open(stores)
    plan = _plan(export, sources, shard_size, seed)
    plan = replace(plan, failed=[*broken, *plan.failed])
    if not plan.parts:
        raise plan.failed[0][1]
    made = not out.exists()
    check_writable(out)
    try:
        with locked(out / RECORD, what=f"The export '{out}'"):
            return _export(export, plan, sources, out, overwrite=overwrite, reporter=reporter)
    finally:
        with suppress(OSError):  # there is something in it, as there should be
            if made:
                out.rmdir()


def _check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"'{out}' is a file: give a folder with --out.")
    # a killed run may have left no more than the record's lock
    others = [entry.name for entry in out.iterdir() if not entry.name.startswith(f".{RECORD}")]
    if others and RECORD not in others:
        raise UsageError(f"'{out}' is not empty: delete it, or give another folder with --out.")


def _plan(export: Export, sources: Sequence[ExportSource], shard_size: int, seed: int) -> ExportPlan:
    """What the format makes of the stores; PluginError where that does not keep its contract."""
    classes = union_of_classes([source.meta for source in sources])
    order: dict[str, Any] = {"seed": seed} if export.shuffles else {}
    plan = EXPORTS.call(export, export.plan, sources, classes=classes, shard_size=shard_size, **order)
    if not isinstance(plan, ExportPlan):
        raise PluginError(f"{EXPORTS.who(export)} must plan a wsitool.ExportPlan, got {repr(plan)[:80]}.")
    return plan


def _open(stores: Sequence[Path]) -> tuple[list[ExportSource], _Failed]:
    sources: list[ExportSource] = []
    failed: _Failed = []
    for path in stores:
        try:
            with open_store(path) as store:
                sources.append(source_of(store))
        except WsitoolError as error:
            failed.append((path.name, error))
    return named(sources), failed


def _export(
    export: Export,
    plan: ExportPlan,
    sources: Sequence[ExportSource],
    out: Path,
    *,
    overwrite: bool,
    reporter: Reporter,
) -> ExportResult:
    record = _record(out, plan, overwrite=overwrite)
    outcomes: dict[str, ExportOutcome] = {}
    count = len(plan.parts)
    progress = progress_on_stop(
        lambda: f"{len(outcomes)} of {count} {plan.unit} exported; run again to go on"
    )
    with progress, reporter.task("Exporting", total=count, unit=plan.unit) as task:
        for part in plan.parts:
            outcomes[part.name] = _export_part(export, part, out, record)
            task.advance(note=part.name)
        if plan.numbers:
            write_json(out / CLASSES_FILE, plan.numbers)
        record.rewrite()
    failed = [(name, str(error)) for name, error in plan.failed]
    failed += [(name, outcome.problem) for name, outcome in outcomes.items() if outcome.problem]
    lost = {name for name, _ in failed}
    return ExportResult(
        out=out,
        stores=sum(source.name not in lost for source in sources),
        patches=sum(outcome.patches for outcome in outcomes.values()),
        files=tuple(sorted(name for part in plan.parts for name in _written(part, outcomes[part.name], out))),
        failed=tuple(failed),
        skipped=sum(outcome.skipped for outcome in outcomes.values()),
        left_out=plan.left_out,
        notes=tuple(plan.notes),
    )


def _record(out: Path, plan: ExportPlan, *, overwrite: bool) -> Record:
    """The record of `out`, of nothing but what is planned; UsageError where it holds more, unless asked."""
    record = Record(out)
    unusable = {name for name, _ in plan.failed}
    others = [name for name in record.differing(plan.parts) if name not in unusable]
    if others and not overwrite:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(
            f"'{out}' holds an export of other stores, or one made otherwise ({others[0]}{more}): pass "
            "--overwrite to replace it, or give another folder with --out."
        )
    if overwrite:
        record.clear()
        (out / CLASSES_FILE).unlink(missing_ok=True)
    for folder in (path for pattern in ("*", "*/patches") for path in out.glob(pattern) if path.is_dir()):
        remove_abandoned(folder)
    record.rewrite()
    return record


def _export_part(export: Export, part: ExportPart, out: Path, record: Record) -> ExportOutcome:
    """Write `part` unless it is there; one with a problem is done again by the next run."""
    try:
        if record.is_done(part):
            return ExportOutcome(patches=part.patches, skipped=True)
        _check_names(export, part)
        record.note(part, done=False)
        outcome: ExportOutcome = EXPORTS.guard(export, part.write, out, passes=(OSError,))
        if not outcome.problem:
            record.note(part, done=True)
        return outcome
    except Exception as error:  # noqa: BLE001 - one store of many
        raise_if_stopping()
        return ExportOutcome(patches=0, problem=one_sentence(error))


def _check_names(export: Export, part: ExportPart) -> None:
    """PluginError where an installed format would write outside the export, or over its record."""
    if export in EXPORTS.builtin:
        return
    for name in part.names:
        steps = name.split("/")
        if name in (RECORD, CLASSES_FILE) or "\\" in name or any(step in ("", ".", "..") for step in steps):
            raise PluginError(
                f"{EXPORTS.who(export)} would write '{name}': files must lie in the export, under names made "
                "of a source's slide or key."
            )


def _written(part: ExportPart, outcome: ExportOutcome, out: Path) -> Iterable[str]:
    if not outcome.problem:
        return part.names
    # what could not be planned, such as a damaged store, has no names either
    return [name for name in part.names if (out / name).is_file()] if outcome.patches else ()
