"""Stores for other programs: positions for slide tools, images for training code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from wsitool.base.files import check_writable, write_json
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.partial import remove_abandoned
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.curate.export.coordinates import clam_file, geojson_file, trident_file
from wsitool.curate.export.images import class_folders, image_folders, webdataset_shards
from wsitool.curate.export.parts import RECORD, Outcome, Part, Record, Source, named, source_of
from wsitool.errors import StoreError, UsageError, WsitoolError
from wsitool.store.collection import union_of_classes
from wsitool.store.opening import find_stores, open_store

__all__ = ["CLASSES_FILE", "ExportResult", "Target", "export_stores"]

Target = Literal["clam", "trident", "geojson", "imagefolder", "webdataset"]
CLASSES_FILE = "classes.json"
_Failed = list[tuple[str, WsitoolError]]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Where the export is, the stores and patches in it, and their files relative to `out`.

    `failed` is (store or shard, reason) for what is not or not wholly there. `skipped` counts the parts that
    an earlier run had finished, `left_out` the patches without a label that imagefolder has no place for.
    """

    out: Path
    stores: int
    patches: int
    files: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()
    skipped: int = 0
    left_out: int = 0


def export_stores(
    path: AnyPath | Iterable[AnyPath],
    out_dir: str | Path,
    to: Target,
    *,
    shard_size: int = 10_000,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Export the store at `path`, or all stores in that folder (or several), into the folder `out_dir`.

    `clam`, `trident`, `geojson`: positions, see `wsitool.curate.export.coordinates`. `imagefolder`: an
    image per patch in a folder per class, as torchvision's ImageFolder reads. `webdataset`: tar shards of at
    most `shard_size` samples. JPEG patches are written as stored, never compressed again; raw ones become
    PNG. `classes.json` says which number each class has, in all stores the same.

    What an earlier run finished of the same stores is left alone, the rest is done. A store that cannot be
    exported does not stop the others. Raises UsageError if `out_dir` holds something else (`overwrite`
    replaces an export made otherwise), StoreError if no store can be exported or another process is at it.
    """
    out = Path(out_dir)
    if to not in get_args(Target):
        raise UsageError(f"--to must be one of {', '.join(get_args(Target))}, got '{to}'.")
    if shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1, got {shard_size}.")
    places = as_list(path)
    stores = find_stores(places)
    if not stores:
        where = ", ".join(f"'{place}'" for place in places) or "nowhere"
        raise StoreError(f"There is no patch store at {where}: expected a .h5 or .zarr, or a folder of them.")
    _check_folder(out)
    plan = _plan(to, stores, shard_size)
    if not plan.parts:
        raise plan.failed[0][1]
    made = not out.exists()
    check_writable(out)
    try:
        with locked(out / RECORD, what=f"The export '{out}'"):
            return _export(plan, out, overwrite=overwrite, reporter=reporter)
    finally:
        with suppress(OSError):  # there is something in it, as there should be
            if made:
                out.rmdir()


@dataclass(frozen=True, kw_only=True)
class _ExportPlan:
    """The parts of an export, the number of each class as its reader counts, and what cannot be exported."""

    sources: Sequence[Source]
    parts: Sequence[Part]
    numbers: Mapping[str, int]
    failed: Sequence[tuple[str, WsitoolError]]
    unit: str
    left_out: int


def _check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"'{out}' is a file: give a folder with --out.")
    # a killed run may have left no more than the record's lock
    others = [entry.name for entry in out.iterdir() if not entry.name.startswith(f".{RECORD}")]
    if others and RECORD not in others:
        raise UsageError(f"'{out}' is not empty: delete it, or give another folder with --out.")


def _plan(to: Target, stores: Sequence[Path], shard_size: int) -> _ExportPlan:
    sources, failed = _open(stores)
    classes = union_of_classes([source.meta for source in sources])
    numbers = {name: number for number, name in enumerate(classes)}
    if to == "webdataset":
        parts = webdataset_shards(sources, numbers, shard_size)
    elif to == "imagefolder":
        parts = image_folders(sources)
        folders = class_folders(sources)
        order = sorted(folders, key=folders.__getitem__)  # ImageFolder numbers sorted folder names
        numbers = {name: number for number, name in enumerate(order)}
    else:
        parts, others = _positions(to, sources, classes)
        failed += others
        numbers = numbers if to == "geojson" else {}
    left_out = sum(source.patches for source in sources) - sum(part.patches for part in parts)
    return _ExportPlan(
        sources=sources,
        parts=parts,
        numbers=numbers,
        failed=failed,
        unit="shards" if to == "webdataset" else "stores",
        left_out=left_out if to == "imagefolder" else 0,
    )


def _open(stores: Sequence[Path]) -> tuple[list[Source], _Failed]:
    sources: list[Source] = []
    failed: _Failed = []
    for path in stores:
        try:
            with open_store(path) as store:
                sources.append(source_of(store))
        except WsitoolError as error:
            failed.append((path.name, error))
    return named(sources), failed


def _positions(to: Target, sources: Sequence[Source], classes: Sequence[str]) -> tuple[list[Part], _Failed]:
    part_of: dict[str, Callable[[Source], Part]] = {
        "clam": clam_file,
        "trident": trident_file,
        "geojson": lambda source: geojson_file(source, classes),
    }
    parts: list[Part] = []
    failed: _Failed = []
    for source in sources:
        try:
            parts.append(part_of[to](source))
        except WsitoolError as error:
            failed.append((source.name, error))
    return parts, failed


def _export(plan: _ExportPlan, out: Path, *, overwrite: bool, reporter: Reporter) -> ExportResult:
    record = _record(out, plan, overwrite=overwrite)
    outcomes: dict[str, Outcome] = {}
    count = len(plan.parts)
    progress = progress_on_stop(
        lambda: f"{len(outcomes)} of {count} {plan.unit} exported; run again to go on"
    )
    with progress, reporter.task("Exporting", total=count, unit=plan.unit) as task:
        for part in plan.parts:
            outcomes[part.name] = _export_part(part, out, record)
            task.advance(note=part.name)
        if plan.numbers:
            write_json(out / CLASSES_FILE, plan.numbers)
        record.rewrite()
    failed = [(name, str(error)) for name, error in plan.failed]
    failed += [(name, outcome.problem) for name, outcome in outcomes.items() if outcome.problem]
    lost = {name for name, _ in failed}
    return ExportResult(
        out=out,
        stores=sum(source.name not in lost for source in plan.sources),
        patches=sum(outcome.patches for outcome in outcomes.values()),
        files=tuple(sorted(name for part in plan.parts for name in _written(part, outcomes[part.name], out))),
        failed=tuple(failed),
        skipped=sum(outcome.skipped for outcome in outcomes.values()),
        left_out=plan.left_out,
    )


def _record(out: Path, plan: _ExportPlan, *, overwrite: bool) -> Record:
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


def _export_part(part: Part, out: Path, record: Record) -> Outcome:
    """Write `part` unless it is there; one with a problem is done again by the next run."""
    try:
        if record.is_done(part):
            return Outcome(patches=part.patches, skipped=True)
        record.note(part, done=False)
        outcome = part.write(out)
        if not outcome.problem:
            record.note(part, done=True)
        return outcome
    except Exception as error:  # noqa: BLE001 - one store of many
        raise_if_stopping()
        return Outcome(patches=0, problem=one_sentence(error))


def _written(part: Part, outcome: Outcome, out: Path) -> Iterable[str]:
    if not outcome.problem:
        return part.names
    # what could not be planned, such as a damaged store, has no names either
    return [name for name in part.names if (out / name).is_file()] if outcome.patches else ()
