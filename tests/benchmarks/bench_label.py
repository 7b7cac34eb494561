"""What labelling costs: a refit of the probe, and from an answer to the next patch.

    python tests/benchmarks/bench_label.py [PATCHES] [FEATURES] [LABELS]

CPU-seconds. The bar of a refit (a fit on the labels and one product over all patches) is 0.2 at 100,000
patches of 1,280 features; the folds, which say how good it is, come after it and are shown beside.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsitool.labelling.database import Database
from wsitool.labelling.patches import Patches, numbered, open_patches
from wsitool.labelling.probe import cross_validated, fit_probe
from wsitool.labelling.session import Learning, Plan, Session
from wsitool.labelling.told import told_of
from wsitool.testing.stores import write_example

_BAR, _ROUNDS, _PATIENTS = 0.2, 5, 20


def measure(patches: int, features: int, labels: int, folder: Path) -> dict[str, float]:
    """CPU-seconds of each: medians of a few rounds."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((patches, features), np.float32)
    truth = rng.integers(0, 3, patches)
    rows[np.arange(patches), truth] += 2
    picked = rng.permutation(patches)[:labels]
    groups = picked % _PATIENTS
    fit_probe(rows[picked], truth[picked])  # imports what it needs
    probe = fit_probe(rows[picked], truth[picked])
    assert probe is not None
    everything = np.ones(labels, bool)
    return {
        "fit on the labels": _spent(lambda: fit_probe(rows[picked], truth[picked])),
        "product over all": _spent(lambda: probe.margins(rows)),
        "folds": _spent(
            lambda: cross_validated(rows[picked], truth[picked], groups, judged=everything, seed=0)
        ),
        "answer to next": _answers(rows, truth, labels, folder),
    }


def _spent(call: Callable[[], object]) -> float:
    spent = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return float(np.median(spent))


def _answers(rows: np.ndarray, truth: np.ndarray, labels: int, folder: Path) -> float:
    """Of one answer, what is asked next and what the page is told, with so many labels there already."""
    write_example(folder / "a.h5", "raw", 1, size=16, labelled=False)
    patches = open_patches(folder / "a.h5")
    many = patches.collection.subset(np.zeros(len(rows), np.int64))
    groups = np.array([f"p{number % _PATIENTS}" for number in range(len(rows))])
    patches = _Many(**{**vars(patches), "collection": many, "groups": groups})
    database = Database(folder / "a.db")
    patches, records = numbered(patches, [])
    database.begin({}, records)
    plan = Plan(classes=("a", "b", "c"), seed=0, shared=10.0, test=())
    learning = Learning(features=rows, name="x")
    session = Session(patches, database, plan, order="least-sure", learning=learning)
    for _ in range(labels):
        _answer(session, truth)
    session.refit()
    spent = _spent(lambda: [_answer(session, truth) for _ in range(20)]) / 20
    database.close()
    return spent


class _Many(Patches):
    """One patch, many times."""

    def place(self, patch: int) -> tuple[int, int]:
        return 0, patch

    def number(self, store: int, row: int) -> int | None:
        return row


def _answer(session: Session, truth: np.ndarray) -> None:
    asked = session.next("c", "a")
    assert asked is not None
    session.answer(
        id=str(asked.patch), client="c", annotator="a", patch=asked.patch, kind="label",
        label=int(truth[asked.patch]), chosen=asked.chosen,
    )  # fmt: skip
    told_of(session, "a")


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [100_000, 1280, 300]
    with tempfile.TemporaryDirectory() as folder:
        cost = measure(*sizes, Path(folder))
    print(f"{sizes[0]:,} patches of {sizes[1]:,} features, {sizes[2]} labels")
    for name, seconds in cost.items():
        print(f"  {name:<18} {1000 * seconds:8.1f} CPU-ms")
    refit = cost["fit on the labels"] + cost["product over all"]
    print(f"refit {1000 * refit:.0f} CPU-ms, bar {1000 * _BAR:.0f}: {'held' if refit < _BAR else 'NOT HELD'}")


if __name__ == "__main__":
    main()
