"""Stores for other programs: positions for slide tools, images for training code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from wsitool.base.cluster import on_cluster
from wsitool.base.files import check_writable, write_json
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.partial import remove_abandoned
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.planned import TABLE_PATIENCE_SECONDS, Noted, noted, refuse_others
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.base.shards import part_of
from wsitool.curate.export.formats import EXPORTS, Export
from wsitool.curate.export.parts import RECORD, ExportOutcome, ExportPart, ExportPlan, ExportSource, Record
from wsitool.curate.export.writing import (
    CLASSES_FILE,
    check_names,
    common_of,
    last_file,
    open_sources,
    plan_of,
    remote_part,
    task_of,
    write_part,
)
from wsitool.curate.splitting import sides_at
from wsitool.errors import StoreError, UsageError
from wsitool.store.opening import find_stores

__all__ = ["CLASSES_FILE", "ExportResult", "export_stores"]

_Write = Callable[[Record], Iterator[tuple[ExportPart, ExportOutcome]]]


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
    shard: str | None = None,
    dask: str | None = None,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Export the store at `path`, or all stores in that folder (or several), into the folder `out_dir`.

    `to` is a format of `EXPORTS`, or an installed one. JPEG patches are written as stored, never compressed
    again; raw ones become PNG. webdataset shards hold at most `shard_size` samples, in an order drawn by
    `seed`. `classes.json` says which number each class has, in all stores the same.

    What an earlier run finished of the same stores is left alone, the rest is done. A store that cannot be
    exported does not stop the others. `shard` "i/N" writes the i-th of N parts beside the other jobs of an
    array (`overwrite` then replaces nothing that was made of the same); `dask` is the address of a cluster,
    of which each store or shard is a task. Raises UsageError if `out_dir` holds something else (`overwrite`
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
    sources, broken = open_sources([path.absolute() for path in stores] if dask else stores)
    plan = plan_of(export, sources, shard_size, seed)
    plan = replace(plan, failed=[*broken, *plan.failed])
    if not plan.parts:
        raise plan.failed[0][1]
    made = not out.exists()
    check_writable(out)
    common = partial(common_of, export, plan, sources, shard_size=shard_size, seed=seed)
    work = _Work(export=export, plan=plan, out=out, shard=shard, reporter=reporter)
    what = f"The export '{out}'"
    try:
        with locked(out / RECORD, what=what) if shard is None else nullcontext():
            outcomes = work.run(
                overwrite, partial(work.write_there, dask, common) if dask else work.write_here
            )
        return _result(work, sources, outcomes)
    finally:
        with suppress(OSError):  # there is something in it, as there should be
            if made:
                out.rmdir()


def _check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"'{out}' is a file: give a folder with --out.")
    # Hidden is what another job has just begun with, and what a killed one has left.
    others = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
    if others and RECORD not in others:
        raise UsageError(f"'{out}' is not empty: delete it, or give another folder with --out.")


def _begin(record: Record, out: Path, plan: ExportPlan, *, overwrite: bool, alone: bool) -> None:
    """Leave in `record` nothing but what is planned; UsageError where it holds more, unless asked."""
    unusable = {name for name, _ in plan.failed}
    others = [name for name in record.differing(plan.parts) if name not in unusable]
    if others and not overwrite:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(
            f"'{out}' holds an export of other stores, or one made otherwise ({others[0]}{more}): pass "
            "--overwrite to replace it, or give another folder with --out."
        )
    # What other jobs of the same call have made stays.
    if overwrite and (alone or others):
        record.clear()
        (out / CLASSES_FILE).unlink(missing_ok=True)
    for folder in (path for pattern in ("*", "*/patches") for path in out.glob(pattern) if path.is_dir()):
        remove_abandoned(folder)
    record.rewrite()


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One call's plan, of which `parts` are this job's."""

    export: Export
    plan: ExportPlan
    out: Path
    shard: str | None
    reporter: Reporter

    @property
    def _what(self) -> str:
        return f"The export '{self.out}'"

    @cached_property
    def parts(self) -> Sequence[ExportPart]:
        return part_of(self.plan.parts, self.shard)

    @cached_property
    def made(self) -> dict[str, Path]:
        """By part, the file that is written last."""
        made = {}
        for part in self.plan.parts:
            with suppress(Exception):  # a damaged store, or a format's bad names: it fails in its turn
                check_names(self.export, part)
                if part.names:
                    made[part.name] = last_file(self.out, part)
        return made

    @contextmanager
    def _noting(self, record: Record) -> Iterator[None]:
        """Have the record with what other jobs have noted; a run of all has it for itself."""
        if self.shard is None:
            yield
            return
        with locked(self.out / RECORD, what=self._what, wait_seconds=TABLE_PATIENCE_SECONDS):
            record.read()
            yield

    def run(self, overwrite: bool, write: _Write) -> dict[str, ExportOutcome]:
        """Write the parts that are not there; the outcome of each by name."""
        alone = self.shard is None
        if not alone:
            self.out.mkdir(parents=True, exist_ok=True)
        record = Record(self.out)
        outcomes: dict[str, ExportOutcome] = {}
        unit, count = self.plan.unit, len(self.parts)
        with progress_on_stop(lambda: f"{len(outcomes)} of {count} {unit} exported; run again to go on"):
            if alone:
                refuse_others(self.made.values(), self._what)
            with self._noting(record):
                _begin(record, self.out, self.plan, overwrite=overwrite, alone=alone)
            with (
                noted(self.out, "export", self.made, whole=alone) as listed,
                self.reporter.task("Exporting", total=count, unit=unit) as task,
            ):
                for part, outcome in write(record):
                    outcomes[part.name] = outcome
                    if outcome.problem:
                        listed.fails(part.name, outcome.problem)
                    elif not outcome.skipped:
                        with self._noting(record):
                            record.note(part, done=True)
                    task.advance(note=part.name)
                self._end(record, listed)
        return outcomes

    def write_here(self, record: Record) -> Iterator[tuple[ExportPart, ExportOutcome]]:
        for part in self.parts:
            yield part, self._begun(part, record) or write_part(self.export, part, self.out)

    def write_there(
        self, address: str, common: Callable[[], str], record: Record
    ) -> Iterator[tuple[ExportPart, ExportOutcome]]:
        begun = [(part, self._begun(part, record)) for part in self.parts]
        yield from ((part, outcome) for part, outcome in begun if outcome is not None)
        waiting = [part for part, outcome in begun if outcome is None]
        told, names = common() if waiting else "", [part.name for part in waiting]
        tasks = [task_of(told, part, self.out) for part in waiting]
        for index, answer in on_cluster(remote_part, tasks, names, address=address):
            failed = {"patches": 0, "problem": answer}
            yield waiting[index], ExportOutcome(**(failed if isinstance(answer, str) else answer))

    def _begun(self, part: ExportPart, record: Record) -> ExportOutcome | None:
        """Note that a part is begun; the outcome where it is there, or cannot be written."""
        try:
            with self._noting(record):
                pass  # what others have done is known now, and files are looked at without the lock
            if record.is_done(part):
                return ExportOutcome(patches=part.patches, skipped=True)
            check_names(self.export, part)
            with self._noting(record):
                record.note(part, done=False)
        except Exception as error:  # noqa: BLE001 - one store of many
            raise_if_stopping()
            return ExportOutcome(patches=0, problem=one_sentence(error))
        return None

    def _end(self, record: Record, listed: Noted) -> None:
        """Write what is of all parts; of an array the job does that finds them all there."""
        with self._noting(record):
            failed = {} if self.shard is None else listed.failed()
            others = [part for part in self.plan.parts if self.shard is not None and part.name not in failed]
            lacking = [part for part in others if not record.says_done(part)]
            if not lacking:
                if self.plan.numbers:
                    write_json(self.out / CLASSES_FILE, self.plan.numbers)
                record.rewrite()
        if lacking:
            count = f"{len(lacking)} of {len(self.plan.parts)} {self.plan.unit}"
            self.reporter.say(f"{count} are not there yet, of other jobs: the last one ends the export.")


def _result(
    work: _Work, sources: Sequence[ExportSource], outcomes: Mapping[str, ExportOutcome]
) -> ExportResult:
    plan, out = work.plan, work.out
    failed = [(name, str(error)) for name, error in part_of(plan.failed, work.shard)]
    failed += [(part.name, problem) for part in work.parts if (problem := outcomes[part.name].problem)]
    lost = {name for name, _ in (*failed, *((name, "") for name, _ in plan.failed))}
    # Of a format with a part for each store those of other jobs are not counted.
    lost |= {part.name for part in plan.parts} - {part.name for part in work.parts}
    return ExportResult(
        out=out,
        stores=sum(source.name not in lost for source in sources),
        patches=sum(outcome.patches for outcome in outcomes.values()),
        files=tuple(sorted(name for part in work.parts for name in _written(part, outcomes[part.name], out))),
        failed=tuple(failed),
        skipped=sum(outcome.skipped for outcome in outcomes.values()),
        left_out=plan.left_out,
        notes=tuple(plan.notes),
    )


def _written(part: ExportPart, outcome: ExportOutcome, out: Path) -> Iterable[str]:
    if not outcome.problem:
        return part.names
    # what could not be planned, such as a damaged store, has no names either
    return [name for name in part.names if (out / name).is_file()] if outcome.patches else ()
