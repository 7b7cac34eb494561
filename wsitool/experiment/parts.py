"""One of several processes that make the cells of one plan in one folder: `experiment --shard`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsitool.base.devices import device_names
from wsitool.base.json_files import read_json
from wsitool.base.lock import Held, locked
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.turns import patiently
from wsitool.errors import StoreError
from wsitool.experiment.cells import is_finished
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.grid import noted_grid, part_of_grid, run_grid
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.preflight import check_plan
from wsitool.experiment.run import ExperimentResult, begin, check_folders, write_material, write_whole
from wsitool.report.result import Result

__all__ = ["ExperimentPart", "experiment_part"]

_LOOK_SECONDS = 1.0  # others may look at the lock, which takes them a moment
_BEGIN_SECONDS = 10.0  # in which the first part has written its plan


@dataclass(frozen=True, kw_only=True, repr=False)
class ExperimentPart(Result):
    """A part of a grid that has ended while others have not: its `cells` of `whole`, and what is `left`.

    >>> wsitool.experiment(
    ...     "stores", "parts", shard="1/2", folds=2, methods="supervised", fractions=100, seeds=1,
    ...     head="linear", init="encoder.safetensors",
    ... ).left
    1
    """

    cells: int
    whole: int
    left: int

    @property
    def summary(self) -> str:
        return (
            f"This part is done, and {self.left} of all {self.whole} cells are not: "
            "whichever part is the last writes the report; if none is running, run the same without --shard."
        )

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """One row: the three numbers."""
        return [{"cells": self.cells, "whole": self.whole, "left": self.left}]


def experiment_part(
    plan: ExperimentPlan,
    out: str | Path,
    *,
    shard: str,
    where: ExperimentDevice | None = None,
    command: str = "",
    page: bool = True,
    reporter: Reporter = SILENT,
) -> ExperimentResult | ExperimentPart:
    """Run the cells of one `shard` "i/N" of `plan`, beside processes that run others on any machines.

    Whichever finds all cells there writes what is of the whole, as `experiment` does. Raises what that does,
    and StoreError while parts of another plan are at work in `out`.
    """
    out, where = Path(out), where or ExperimentDevice()
    cells = part_of_grid(plan, shard)
    check_plan(plan, open_splits(plan), reporter)
    check_folders(plan, out)

    def finish() -> ExperimentResult:
        # Two may have found all there; the cells are only read, for which one device is enough.
        with locked(out / "results.json", what="the report"):
            reading = replace(where, device=device_names(where.device)[0])
            return write_whole(plan, out, where=reading, command=command, page=page, reporter=reporter)

    with _among_parts(plan, out) as is_first, noted_grid(plan, out, whole=False):
        if is_first:
            write_material(plan, out)
        run_grid(plan, out, cells=cells, where=where, reporter=reporter)
        left = sum(not is_finished(plan, cell, out) for cell in all_cells(plan))
        if not left:
            return patiently(finish, reporter)
    return ExperimentPart(out=out, cells=len(cells), whole=len(all_cells(plan)), left=left)


@contextmanager
def _among_parts(plan: ExperimentPlan, out: Path) -> Iterator[bool]:
    """Keep other plans, and runs that want the folder alone, out of it for the `with` block.

    Yields whether no other part was at work when this one began. StoreError where one of another plan was.
    """
    is_first = False
    ours = json.loads(json.dumps(plan.to_dict()))
    with suppress(Held), locked(out, what=f"'{out}'", wait_seconds=_LOOK_SECONDS):
        # Nobody else is at work here: from now on this plan is.
        begin(plan, out)
        is_first = True
    with locked(out, what=f"'{out}'", wait_seconds=_BEGIN_SECONDS, shared=True):
        try:
            theirs = read_json(out / "plan.json")
        except (OSError, ValueError):
            theirs = {}
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        if differing:
            raise StoreError(
                f"'{out}' is being written by parts of another plan (other {', '.join(differing)}): wait for "
                "them, or choose another --out."
            )
        yield is_first
