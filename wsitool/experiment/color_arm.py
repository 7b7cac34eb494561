"""The color baseline of a grid: what stands beside the arms at each amount of labels, split and seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file
from wsitool.base.progress import Reporter
from wsitool.classify.color_baseline import color_logits
from wsitool.evaluation.color import COLOR_NUMBERS, color_features
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.subsets import subset_hash
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import Cell, labelled_rows, open_splits
from wsitool.experiment.plan import COLOR, ExperimentPlan

__all__ = ["color_cells"]

Floats = NDArray[np.float32]


def color_cells(plan: ExperimentPlan, out: Path, reporter: Reporter) -> dict[Cell, CellResult]:
    """Cells of the arm `COLOR`, which is none of the plan's: each on the labels that the arms' cells have.

    The 24 numbers of each patch are kept in `out`; fitting takes a second or so a cell and is done again.
    """
    splits = open_splits(plan)
    patches = {id(view.whole): view.whole for split in splits for view in (split.train, split.test)}
    numbers = {key: _numbers(each, out / "features") for key, each in patches.items()}
    settings, cells, seen = plan.settings("cpu"), {}, dict[tuple[int, str], NDArray[np.float64]]()
    keys = [
        Cell(arm=COLOR, fraction=fraction, seed=seed, split=number)
        for number in range(len(splits))
        for seed in range(plan.seeds)
        for fraction in plan.amounts
    ]
    with reporter.task("color baseline", total=len(keys), unit="cells") as task:
        for cell in keys:
            split = splits[cell.split]
            rows = labelled_rows(plan, split, cell.fraction, cell.seed)
            subset, inside = split.train.patches.subset(rows), split.train.rows[rows]
            # Every seed has all labels in common.
            same = (cell.split, subset_hash([str(row) for row in inside]))
            if same not in seen:
                seen[same] = color_logits(
                    numbers[id(split.train.whole)][inside],
                    subset.labels,
                    subset.group_index,
                    numbers[id(split.test.whole)][split.test.rows],
                    len(subset.classes),
                    settings=settings,
                    seed=cell.seed,
                )
            facts = {"temperature": 1.0, "trained_on": len(rows), "validated_on": 0, "c": None}
            cells[cell] = CellResult(logits=seen[same], facts=facts, reused=False)
            task.advance(1)
    return cells


def _numbers(patches: LabelledPatches, folder: Path) -> Floats:
    """(N, 24) of all patches, from the file in `folder` where it is there and whole."""
    path = folder / f"color-{subset_hash(patches.identities())[:16]}.npy"
    try:
        stored: Floats = np.load(path, allow_pickle=False)
        if stored.shape == (len(patches), len(COLOR_NUMBERS)):
            return stored
    except (OSError, ValueError, EOFError):
        pass  # none, or damaged: as good as none
    computed, buffer = color_features(patches.collection), io.BytesIO()
    np.save(buffer, computed)
    replace_file(path, buffer.getvalue())
    return computed
