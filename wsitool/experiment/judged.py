"""What the cells in an experiment's folder predicted of which patches; needs neither stores nor torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.json_files import read_json
from wsitool.base.tables import Row as Line
from wsitool.base.tables import read_table
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Amount, Select, file_part
from wsitool.evaluation.calibration import softmax
from wsitool.experiment.plan import Arm, ExperimentPlan, Row, order_of

__all__ = [
    "CELLS_JSON",
    "TEST_PATCHES",
    "TEST_PATCH_COLUMNS",
    "Judged",
    "cell_names",
    "judged_by",
    "order_hash",
    "read_cell",
]

TEST_PATCHES, CELLS_JSON = "test_patches.csv", "cells.json"
TEST_PATCH_COLUMNS = ("part", "slide", "group", "image", "row", "x", "y", "label", "content_hash")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a row of the table said of every test patch, with one amount of labels and one seed.

    `patches` (N) are lines of test_patches.csv, `probabilities` (N, K) uncalibrated; `notes` are to be said
    beside them.
    """

    classes: tuple[str, ...]
    patches: tuple[Line, ...]
    probabilities: Floats
    notes: tuple[str, ...]


def cell_names(arm: Arm, amount: Amount, select: Select, seed: int, part: str) -> tuple[str, ...]:
    """The file a cell is written to, then others that it may be found in; `part` names its split."""
    start = "-".join(filter(None, (arm.file_part, arm.head, file_part(amount))))
    plain = f"{start}-seed{seed}-{part}.npz"
    if select == "spread":
        return (plain,)
    # Before a plan could have several orders none was in the name.
    return f"{start}-{select}-seed{seed}-{part}.npz", plain


def order_hash(identities: Sequence[str], classes: Sequence[str]) -> str:
    """What the rows and columns of a cell's logits are; a cell's key is of the same patches in any order."""
    return hashlib.sha256(json.dumps([list(classes), list(identities)]).encode()).hexdigest()


def read_cell(path: Path) -> tuple[Floats, dict[str, Any]] | None:
    """Logits (N, K) and facts of a cell's file; None if there is none, or it is damaged."""
    try:
        # No pickles: the folder may be shared.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            facts, logits = json.loads(str(stored["facts"])), stored["logits"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    whole = isinstance(facts, dict) and "key" in facts and logits.ndim == 2 and np.isfinite(logits).all()
    return (logits, facts) if whole else None


def judged_by(folder: Path, plan: ExperimentPlan, row: Row, amount: Amount, seed: int) -> Judged:
    """Join the cells of one row, amount and seed with the patches they are of; folds one after the other.

    UsageError where a cell is not computed, or is of other patches than test_patches.csv names.
    """
    if plan.of_slides:
        raise UsageError(
            f"'{folder.name}' judges {plan.counted} as a whole, so that it has no patches to show: its "
            "report.html and test_slides.csv say what it judged."
        )
    parts = _test_patches(folder)
    classes = _classes(folder)
    keys, select = _keys(folder), order_of(plan, amount, row.select)
    cells = []
    for part, lines in parts.items():
        names = cell_names(row.arm, amount, select, seed, part)
        logits, facts = _cell(folder / "cells", names, keys)
        expected = order_hash([f"{at['content_hash']}:{at['row']}:{at['label']}" for at in lines], classes)
        if logits.shape != (len(lines), len(classes)) or facts.get("judged", expected) != expected:
            raise UsageError(
                f"The cell '{names[0]}' is of other test patches than {TEST_PATCHES} names: run the "
                "experiment again."
            )
        cells.append((logits, facts))
    notes = []
    if not keys:
        notes.append("The experiment is not finished: a cell of an earlier plan may be among these.")
    if any("judged" not in facts for _, facts in cells):
        notes.append(
            "These cells are of an earlier build and do not say in which order their patches are: as in the "
            "report, the present order is taken."
        )
    return Judged(
        classes=classes,
        patches=tuple(line for lines in parts.values() for line in lines),
        probabilities=np.concatenate([softmax(logits) for logits, _ in cells]),
        notes=tuple(notes),
    )


def _cell(folder: Path, names: Sequence[str], keys: Mapping[str, str]) -> tuple[Floats, dict[str, Any]]:
    """The cell of one of these names that the last run had; UsageError where there is none."""
    for name in names:
        read = read_cell(folder / name)
        # A file of an earlier plan may lie beside it.
        if read is not None and keys.get(names[0], read[1]["key"]) == read[1]["key"]:
            return read
    raise UsageError(f"The cell '{names[0]}' is not computed yet: run the experiment again to go on.")


def _test_patches(folder: Path) -> dict[str, list[Line]]:
    """The lines of each part, in the order of its logits."""
    if not (folder / TEST_PATCHES).is_file():
        raise UsageError(
            f"There is no {TEST_PATCHES} in '{folder.name}', which says what its cells are of: run the "
            "experiment again with the same --out (finished cells are kept)."
        )
    parts: dict[str, list[Line]] = {}
    for line in read_table(folder / TEST_PATCHES, needs=TEST_PATCH_COLUMNS, exact=True).rows:
        if line.problem or not line["row"].isdecimal():
            raise UsageError(f"{TEST_PATCHES}, line {line.line}: {line.problem or 'row is no number'}.")
        parts.setdefault(line["part"], []).append(line)
    return parts


def _classes(folder: Path) -> tuple[str, ...]:
    """The classes in the order of the logits' columns, which all parts have in common."""
    try:
        tests = read_json(folder / "manifest.json")["tests"]
        return tuple(str(name) for name in next(iter(tests.values()))["per_class"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise UsageError(f"'{folder.name}/manifest.json' is no experiment's ({error}).") from None


def _keys(folder: Path) -> dict[str, str]:
    """The key of each cell's file, of an experiment that has ended; {} of one that has not."""
    try:
        keys = read_json(folder / CELLS_JSON)
    except (OSError, ValueError):
        return {}
    return {str(name): str(key) for name, key in keys.items()} if isinstance(keys, dict) else {}
