"""The color baseline of a grid: what stands beside the arms at each amount of labels, split and seed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file
from wsitool.base.progress import Reporter
from wsitool.classify.color_baseline import color_logits
from wsitool.evaluation.color import COLOR_NUMBERS, color_features
from wsitool.evaluation.labels import LabelledPatches
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import Cell, View, labelled_rows, open_splits
from wsitool.experiment.plan import COLOR, ExperimentPlan
from wsitool.mil.baselines import colors_of_bags

__all__ = ["color_cells"]

F = TypeVar("F", bound=np.floating)
Floats = NDArray[np.float32]


def color_cells(plan: ExperimentPlan, out: Path, reporter: Reporter) -> dict[Cell, CellResult]:
    """Cells of the arm `COLOR`, which is none of the plan's: each on the labels that the arms have.

    The 24 numbers of each patch and each cell's logits are kept in `out` under what they follow from.
    """
    splits = open_splits(plan)
    if any(view.collection is None for split in splits for view in split.views):
        return {}  # features have no color
    patches = {id(view.whole): view for split in splits for view in split.views}
    numbers = {key: _numbers(each, plan, out / "features") for key, each in patches.items()}
    cells, seen = {}, dict[str, NDArray[np.float64]]()
    keys = [
        Cell(arm=COLOR, fraction=fraction, seed=seed, split=number, select=plan.drawn)
        for number in range(len(splits))
        for seed in range(plan.most_seeds)
        for fraction in plan.amounts
        if seed < plan.seeds_of(fraction)
    ]
    with reporter.task("color baseline", total=len(keys), unit="cells") as task:
        for cell in keys:
            split = splits[cell.split]
            rows = labelled_rows(plan, split, cell)
            # Every seed has all labels in common, and then the folds of the first one.
            same = _key(plan, split.train.patches.subset(rows), split.test.patches)
            if same not in seen:
                path = out / "features" / f"color-logits-{same}-{cell.seed}.npy"
                seen[same] = _logits(plan, cell, rows, numbers, path)
            facts = {"temperature": 1.0, "trained_on": len(rows), "validated_on": 0, "c": None}
            cells[cell] = CellResult(logits=seen[same], facts=facts, reused=False)
            task.advance(1)
    return cells


def _key(plan: ExperimentPlan, *sides: LabelledPatches) -> str:
    """Of what decides the logits besides the seed: labelled and judged patches, their groups, settings."""
    # Of bags the group is part of what they are.
    told = [
        side.identity_hash() if plan.of_slides else side.identity_hash(before_group="@") for side in sides
    ]
    values = [plan.balance, plan.split, *told]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _logits(
    plan: ExperimentPlan, cell: Cell, rows: NDArray[np.int64], numbers: Mapping[int, Floats], path: Path
) -> NDArray[np.float64]:
    split = open_splits(plan)[cell.split]
    subset = split.train.patches.subset(rows)
    return _kept(
        path,
        (len(split.test.rows), len(subset.classes)),
        lambda: color_logits(
            numbers[id(split.train.whole)][split.train.rows[rows]],
            subset.labels,
            subset.group_index,
            numbers[id(split.test.whole)][split.test.rows],
            len(subset.classes),
            settings=plan.color_settings,
            seed=cell.seed,
        ),
    )


def _numbers(view: View, plan: ExperimentPlan, folder: Path) -> Floats:
    """(N, 24) of all patches or bags, from the file in `folder` where it is there and whole."""
    path = folder / f"color-{view.whole.identity_hash()[:16]}.npy"

    def compute() -> Floats:
        if plan.of_slides and view.collection is not None:
            return colors_of_bags(view.bags.bags, view.collection)
        return color_features(view.whole.collection)

    return _kept(path, (len(view.whole), len(COLOR_NUMBERS)), compute)


def _kept(path: Path, shape: tuple[int, int], compute: Callable[[], NDArray[F]]) -> NDArray[F]:
    """The array of that shape in the file, where it is there and whole; else computed and written."""
    try:
        stored: NDArray[F] = np.load(path, allow_pickle=False)
        if stored.shape == shape and np.isfinite(stored).all():
            return stored
    except (OSError, ValueError, EOFError):
        pass  # none, or damaged: as good as none
    computed, buffer = compute(), io.BytesIO()
    np.save(buffer, computed)
    replace_file(path, buffer.getvalue())
    return computed
