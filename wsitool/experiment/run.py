"""`experiment`: the whole comparison, resumable, ending in a report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np

from wsitool.base.files import check_writable, replace_file_in_parts, write_json
from wsitool.base.json_files import read_json, typed
from wsitool.base.lock import locked
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import table_bytes
from wsitool.classify.outputs import places_of
from wsitool.evaluation.amounts import amount_of, file_part, percent
from wsitool.evaluation.duplicates import LOOK, Signatures, near_duplicates, signatures
from wsitool.experiment.cells import CellResult
from wsitool.experiment.color_arm import color_cells
from wsitool.experiment.evaluation_splits import (
    Cell,
    EvaluationSplit,
    View,
    all_cells,
    judging_problems,
    labelled_rows,
    open_splits,
)
from wsitool.experiment.grid import noted_grid, run_grid
from wsitool.experiment.judged import CELLS_JSON, TEST_PATCH_COLUMNS, TEST_PATCHES
from wsitool.experiment.narrative import said_first
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.preflight import check_plan
from wsitool.experiment.report import write_report
from wsitool.experiment.results import Results, summarise
from wsitool.experiment.slide_tables import describe, write_test_bags
from wsitool.report.result import Result
from wsitool.tracking.loggers import Loggers

__all__ = ["ExperimentResult", "begin", "check_folders", "experiment", "write_material", "write_whole"]


@dataclass(frozen=True, kw_only=True, repr=False)
class ExperimentResult(Result):
    """A finished grid: where it is, its figures, its page (None if none was asked for).

    `reused` is how many of its cells were there already.

    >>> result = wsitool.experiment(
    ...     "stores", "table", folds=2, methods="supervised", fractions=100, seeds=1, head="linear",
    ...     init="encoder.safetensors",
    ... )
    >>> result
    <ExperimentResult: 1 arms at 1 fractions, 2 cells (0 kept): table>
    """

    results: Results
    page: Path | None
    cells: int
    reused: int

    @property
    def summary(self) -> str:
        arms, amounts = len(self.results.plan.rows), len(self.results.plan.amounts)
        return f"{arms} arms at {amounts} fractions, {self.cells} cells ({self.reused} kept): {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        """What must be said first, then the accuracy of each arm and fraction."""
        first = said_first(self.results)
        cells = {
            f"{arm}, {percent(fraction)}": f"accuracy {figures.mean['accuracy']:.3f}"
            for (arm, fraction), figures in self.results.arms.items()
            if figures.mean["accuracy"] is not None
        }
        return {**({"first": first} if first else {}), **cells}

    @property
    def pictures(self) -> Sequence[Path]:
        return sorted((self.out / "figures").glob("*.png"))

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """A row for each arm and fraction: the mean of each metric over the seeds."""
        return [
            {"arm": arm, **amount_of(fraction), "trained_on": figures.trained_on, **figures.mean}
            for (arm, fraction), figures in self.results.arms.items()
        ]


def experiment(
    plan: ExperimentPlan,
    out: str | Path,
    *,
    where: ExperimentDevice | None = None,
    command: str = "",
    page: bool = True,
    reporter: Reporter = SILENT,
) -> ExperimentResult:
    """Run every cell of `plan` that is not finished, then write the report into `out`.

    The same `out` may be used again after a change of plan: cells whose inputs are the same are reused.
    Raises what `classify` and `pretrain` raise, and StoreError while another process writes to `out`;
    finished cells stay.
    """
    out = Path(out)
    splits = open_splits(plan)
    check_plan(plan, splits, reporter)
    check_folders(plan, out)
    # One alone says what is in the folder.
    with locked(out, what=f"'{out}'"):
        where = where or ExperimentDevice()
        return write_whole(plan, out, where=where, command=command, page=page, reporter=reporter)


def check_folders(plan: ExperimentPlan, out: Path) -> None:
    """UsageError where the run could not write, before its hours of work."""
    check_writable(out)
    if plan.cache is not None:
        check_writable(plan.cache)


def write_whole(
    plan: ExperimentPlan,
    out: Path,
    *,
    where: ExperimentDevice,
    command: str,
    page: bool,
    reporter: Reporter,
) -> ExperimentResult:
    """As `experiment`, of a plan that is checked, and for one process at a time."""
    splits = open_splits(plan)
    notes = judging_problems(splits, plan.one)
    for line in notes:
        reporter.warn(line)
    notes += _near_duplicates(splits, out / "features", reporter)
    begin(plan, out)
    write_material(plan, out)
    with noted_grid(plan, out, whole=True):
        cells = run_grid(plan, out, where=where, reporter=reporter)
    keys = {cell.file_names(plan)[0]: result.facts["key"] for cell, result in cells.items()}
    write_json(out / CELLS_JSON, keys)
    if any(cell.asks for cell in cells):
        _write_manifest(plan, splits, out, cells)
    results = summarise(plan, splits, cells, color_cells(plan, out, reporter))
    notes += _warnings(cells.values())
    report = write_report(results, out, command=command, notes=notes, page=page)
    reused = sum(result.reused for result in cells.values())
    result = ExperimentResult(
        out=out, results=results, page=report if page else None, cells=len(cells), reused=reused
    )
    _log(result, where.logger, reporter)
    return result


def begin(plan: ExperimentPlan, out: Path) -> None:
    """Write which plan is at work in `out`."""
    # The plan as it is now, also where cells of an earlier one are reused.
    write_json(out / "plan.json", plan.to_dict())
    (out / CELLS_JSON).unlink(missing_ok=True)  # it names the cells of a whole run


def write_material(plan: ExperimentPlan, out: Path) -> None:
    """Write which patches the cells in `out` are trained and judged on."""
    splits = open_splits(plan)
    _write_manifest(plan, splits, out)
    _write_test_patches(splits, out)


def _log(result: ExperimentResult, names: Sequence[str], reporter: Reporter) -> None:
    """Tell the loggers of the table; of cells that were added, in the run that they know."""
    out, config = result.out, result.results.plan.to_dict()
    figures: dict[str, float | None] = {}
    for (arm, amount), row in result.results.arms.items():
        figures[f"{arm}/{file_part(amount)}/trained_on"] = row.trained_on
        for name, value in row.mean.items():
            figures[f"{arm}/{file_part(amount)}/{name}"] = value
            if (interval := row.intervals.get(name)) is not None:
                figures[f"{arm}/{file_part(amount)}/{name}_low"] = interval.low
                figures[f"{arm}/{file_part(amount)}/{name}_high"] = interval.high
    files = [out / name for name in ("plan.json", "results.json", "table2.csv")]
    with Loggers(names, out, command="experiment", config=config, resume=True, reporter=reporter) as loggers:
        loggers.finish(figures, pictures=result.pictures, files=files)


def _near_duplicates(splits: Sequence[EvaluationSplit], folder: Path, reporter: Reporter) -> list[str]:
    """What is said of each split; kept in `folder` under the fingerprints of the patches.

    Of slides and patients nothing: there patches decide nothing by themselves.
    """
    if splits[0].train.side is not None:
        return []
    sides = [
        [split.name, *(view.patches.collection.fingerprint for view in (split.train, split.test))]
        for split in splits
    ]
    key = hashlib.sha256(json.dumps([LOOK, *sides]).encode()).hexdigest()
    path = folder / f"duplicates-{key[:32]}.json"
    notes = _noted(path)
    if notes is None:
        notes = _looked_for(splits)
        write_json(path, notes)
    for note in notes:
        reporter.warn(note)
    return notes


def _noted(path: Path) -> list[str] | None:
    try:
        return list(typed(tuple[str, ...], read_json(path), "notes"))
    except (OSError, ValueError):  # none, or damaged: as good as none
        return None


def _looked_for(splits: Sequence[EvaluationSplit]) -> list[str]:
    notes = []
    # Folds share their patches: each is read once.
    wholes = {id(view.whole): view.whole for split in splits for view in (split.train, split.test)}
    of_wholes = {key: signatures(patches.collection) for key, patches in wholes.items()}

    def known(view: View) -> Signatures:
        return of_wholes[id(view.whole)].subset(view.rows)

    for split in splits:
        train, test = split.train, split.test
        duplicates = near_duplicates(
            train.patches.collection, test.patches.collection, known_a=known(train), known_b=known(test)
        )
        if duplicates.pairs:
            notes.append(f"{split.name}: {duplicates.sentence()}")
    return notes


def _warnings(cells: Collection[CellResult]) -> list[str]:
    """What cells warned of, each once with how often it happened."""
    said = Counter(result.facts["split_warning"] for result in cells if result.facts["split_warning"])
    lines = [f"In {count} of the cells: {text}" for text, count in said.items()]
    seen = sorted({group for result in cells for group in result.facts["transductive_groups"]})
    if seen:
        lines.append(
            f"Transductive: encoders were pretrained on {len(seen)} of the groups they are judged on."
        )
    return lines


def _write_test_patches(splits: Sequence[EvaluationSplit], out: Path) -> None:
    """What each row of the cells' logits is of."""
    if splits[0].train.side is not None:
        write_test_bags(splits, out)
        return

    def lines(split: EvaluationSplit) -> bytes:
        patches = split.test.patches
        hashes = [store.content_hash for store in patches.collection.stores]
        columns = (patches.labels.tolist(), patches.collection.store_index.tolist())
        return table_bytes(
            (split.name, *place, patches.classes[label], hashes[store])
            for place, label, store in zip(places_of(patches), *columns, strict=True)
        )

    replace_file_in_parts(out / TEST_PATCHES, chain([table_bytes([TEST_PATCH_COLUMNS])], map(lines, splits)))


def _write_manifest(
    plan: ExperimentPlan,
    splits: Sequence[EvaluationSplit],
    out: Path,
    computed: Mapping[Cell, CellResult] = MappingProxyType({}),
) -> None:
    """Which patches each split, seed and fraction uses: the same for all arms but where they ask for them.

    What was asked for is known of the cells that are `computed`.
    """
    subsets = []
    one_arm = plan.arms[0]
    for cell in sorted(all_cells(plan), key=lambda cell: (cell.split, cell.seed, cell.fraction)):
        split = splits[cell.split]
        if cell.asks and cell in computed:
            rows, of_arm = np.array(computed[cell].facts["labelled_rows"]), {"arm": cell.arm.name}
        elif not cell.asks and cell.arm == one_arm:
            rows, of_arm = labelled_rows(plan, split, cell), {}
        else:
            continue
        # "round" is the key that readers of the file know.
        place = {"round": split.name, "seed": cell.seed, "select": cell.select, **of_arm}
        description = describe(split.train.patches.subset(rows), plan)
        subsets.append({**place, **amount_of(cell.fraction), **description})
    tests = {split.name: describe(split.test.patches, plan) for split in splits}
    write_json(out / "manifest.json", {"subsets": subsets, "tests": tests})
