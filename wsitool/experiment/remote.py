"""The cells of a grid on a dask cluster: a task for each pretraining and each cell, on shared folders."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsitool.base.cluster import on_cluster
from wsitool.base.json_files import parse_json
from wsitool.base.progress import SILENT
from wsitool.base.turns import patiently
from wsitool.errors import TrainingError, UsageError
from wsitool.experiment.cells import CellResult, finished_cell, run_cell
from wsitool.experiment.evaluation_splits import Cell, all_cells
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import plan_of
from wsitool.experiment.stages import ensure, is_complete, stages_of

__all__ = ["cells_on_cluster", "make_there"]

_turn = threading.Lock()  # a worker may have several threads, and what cells have in common is held once
_run = ""  # whose stores this process has opened


def cells_on_cluster(
    plan: ExperimentPlan, cells: Sequence[Cell], out: Path, *, device: str, address: str, resource: str | None
) -> Iterator[tuple[Cell, CellResult]]:
    """Each cell with its result, as soon as that is there; each pretraining before the cells that need it.

    Workers write into `out`, from which the results are read. What fails leaves the rest alone; TrainingError
    at the end where something did.
    """
    ahead: list[Cell] = []
    for cell in cells:
        if (there := finished_cell(plan, cell, out)) is None:
            ahead.append(cell)
        else:
            yield cell, there
    tasks = _tasks(plan, ahead, out, device)
    names, texts = [task.name for task in tasks], [task.text for task in tasks]
    needs = {i: task.needs for i, task in enumerate(tasks)}
    failed: list[str] = []
    for i, answer in on_cluster(make_there, texts, names, address=address, needs=needs, resource=resource):
        made = tasks[i].cell
        if isinstance(answer, str):
            failed.append(f"{names[i]}: {answer}")
        elif made is not None:
            result = finished_cell(plan, made, out)
            if result is None:
                raise TrainingError(
                    f"A worker says that {names[i]} is done, and it is not in '{out}': all machines need the "
                    "same folders, stores and wsitool."
                )
            yield made, result
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(tasks)} cells and pretrainings failed (the first is {failed[0]}): the "
            "others are kept, run again to go on."
        )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A pretraining, or the `cell` that it is; `needs` are places of others in the list."""

    name: str
    text: str
    needs: tuple[int, ...]
    cell: Cell | None = None


def _tasks(plan: ExperimentPlan, cells: Sequence[Cell], out: Path, device: str) -> list[_Task]:
    """Each pretraining that is not done yet, before the cells that need it."""
    number = {cell: i for i, cell in enumerate(all_cells(plan))}
    run = {"run": secrets.token_hex(8), "folder": str(Path.cwd()), "out": str(out), "device": device}
    tasks: list[_Task] = []
    index: dict[str, int] = {}

    def add(name: str, of: Cell, stage: str | None, needs: Sequence[str]) -> None:
        text = json.dumps({**run, "plan": plan.to_dict(), "cell": number[of], "stage": stage})
        before = tuple(index[each] for each in needs if each in index)
        tasks.append(_Task(name=name, text=text, needs=before, cell=of if stage is None else None))

    for cell in cells:
        stages = stages_of(plan, cell)
        for stage in stages:
            if stage.name not in index and not is_complete(plan, stage, out / "pretrain"):
                add(stage.name, cell, stage.name, [stage.before.name] if stage.before is not None else [])
                index[stage.name] = len(tasks) - 1
        add(Path(cell.file_names(plan)[0]).stem, cell, None, [stage.name for stage in stages])
    return tasks


def make_there(task: str) -> bool:
    """Pretrain, or compute a cell, in a worker; returns once that is in the folder."""
    given = parse_json(task)
    folder = Path(given["folder"])
    if not folder.is_dir():
        raise UsageError(f"A worker has no folder '{folder}': all machines need the same ones.")
    # In the client's folder, where relative paths lead to its stores.
    with _turn, chdir(folder):
        _forget_others(given["run"])
        plan, out = plan_of(given["plan"], {}, what="The plan of a task"), Path(given["out"])
        cell, device = all_cells(plan)[given["cell"]], given["device"]
        if given["stage"] is None:
            patiently(partial(run_cell, plan, cell, out, device=device))
        else:
            (stage,) = (each for each in stages_of(plan, cell) if each.name == given["stage"])
            patiently(partial(ensure, plan, stage, out / "pretrain", device, SILENT))
    return True


def _forget_others(run: str) -> None:
    """Close the stores of another run: they may have been written again since, and paths mean others."""
    global _run
    if run == _run:
        return
    for name in [name for name in sys.modules if name.startswith("wsitool.experiment.")]:
        for function in vars(sys.modules[name]).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
    _run = run
