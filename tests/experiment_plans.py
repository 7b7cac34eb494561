"""Small stores and a small plan for the tests of experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from classify_stores import labelled_store

from wsitool.experiment import grid
from wsitool.experiment.cells import run_cell
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.run import experiment

__all__ = ["rows_named", "run_and_die", "small_data", "small_plan"]


def rows_named(stores: list[dict[str, str]]) -> set[tuple[str, int]]:
    """The patches that a manifest names, as (store, row)."""
    named = set()
    for store in stores:
        for part in store["rows"].split(","):
            first, _, last = part.partition("-")
            named |= {(store["name"], row) for row in range(int(first), int(last or first) + 1)}
    return named


def small_data(folder: Path) -> Path:
    """Six labelled patients in `folder`/train, and two of another organ in `folder`/other."""
    for number in range(6):
        labelled_store(folder / "train" / f"p{number}.h5", per_class=6, seed=number)
    for number in range(2):
        labelled_store(folder / "other" / f"k{number}.h5", per_class=6, seed=50 + number)
    return folder


def small_plan(data: Path, **changes: object) -> ExperimentPlan:
    """Sixteen cells on the stores of `small_data`, each of seconds; `changes` replace its fields."""
    values: dict[str, object] = {
        "train": (str(data / "train"),),
        "auxiliary": (str(data / "other"),),
        "methods": ("supervised", "rotation+auxiliary"),
        "fractions": (0.25, 1.0),
        "seeds": 2,
        "folds": 2,
        "backbone": "resnet18",
        "init": "random",
        "head": "linear",
        "c": 0.1,
        "batch_size": 16,
        "pretrain_epochs": 1,
        "pretrain_batch_size": 18,
        **changes,
    }
    return ExperimentPlan(**values)  # type: ignore[arg-type]


def run_and_die(plan: ExperimentPlan, out: Path, *, cells: int) -> None:
    """Run the experiment until `cells` cells are done, and interrupt it there."""
    done: list[object] = []

    def dies(*arguments: object, **options: object) -> object:
        if len(done) == cells:
            raise KeyboardInterrupt
        done.append(1)
        return run_cell(*arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "run_cell", dies)
        with pytest.raises(KeyboardInterrupt):
            experiment(plan, out)
