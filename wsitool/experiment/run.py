"""`experiment`: the whole comparison, resumable, ending in a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.files import check_writable, write_json
from wsitool.base.lock import locked
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.outputs import describe_patches
from wsitool.evaluation.duplicates import Signatures, near_duplicates, signatures
from wsitool.experiment.cells import CellResult
from wsitool.experiment.color_arm import color_cells
from wsitool.experiment.evaluation_splits import (
    EvaluationSplit,
    View,
    judging_problems,
    labelled_rows,
    open_splits,
)
from wsitool.experiment.grid import run_grid
from wsitool.experiment.plan import ExperimentPlan, amount_of
from wsitool.experiment.preflight import check_plan
from wsitool.experiment.report import write_report
from wsitool.experiment.results import Results, summarise

__all__ = ["ExperimentResult", "experiment"]


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """A finished grid: where it is, its figures, and how many of its cells were there already."""

    out: Path
    results: Results
    report: Path
    cells: int
    reused: int


def experiment(
    plan: ExperimentPlan,
    out: str | Path,
    *,
    devices: Sequence[str] = ("auto",),
    command: str = "",
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
    # Before hours of work, not at its first file.
    check_writable(out)
    # Two runs in one folder would pretrain the same encoder at once.
    with locked(out, what=f"'{out}'"):
        notes = judging_problems(splits)
        for line in notes:
            reporter.warn(line)
        notes += _near_duplicates(splits, reporter)
        # The plan as it is now, also where cells of an earlier one are reused.
        write_json(out / "plan.json", plan.to_dict())
        _write_manifest(plan, splits, out)
        cells = run_grid(plan, out, devices=devices, reporter=reporter)
        results = summarise(plan, splits, cells, color_cells(plan, out, reporter))
        report = write_report(results, out, command=command, notes=notes + _warnings(cells.values()))
    reused = sum(result.reused for result in cells.values())
    return ExperimentResult(out=out, results=results, report=report, cells=len(cells), reused=reused)


def _near_duplicates(splits: Sequence[EvaluationSplit], reporter: Reporter) -> list[str]:
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
            reporter.warn(notes[-1])
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


def _write_manifest(plan: ExperimentPlan, splits: Sequence[EvaluationSplit], out: Path) -> None:
    """Which patches each split, seed and fraction uses: the same for all arms."""
    subsets = []
    for split in splits:
        train = split.train.patches
        for seed in range(plan.seeds):
            for fraction in sorted(plan.amounts):
                description = describe_patches(train.subset(labelled_rows(plan, split, fraction, seed)))
                # "round" is the key that readers of the file know.
                subsets.append({"round": split.name, "seed": seed, **amount_of(fraction), **description})
    tests = {split.name: describe_patches(split.test.patches) for split in splits}
    write_json(out / "manifest.json", {"subsets": subsets, "tests": tests})
