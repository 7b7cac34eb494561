"""How many labels a classifier needs, by the order in which they are asked for: a scripted annotator.

    python tests/benchmarks/bench_label_orders.py STORES TEST.csv ENCODER [BACKBONE] [SEEDS] [OUT.md]

STORES are labelled stores ('wsitool import'), of which the patients of TEST.csv are judged on and never asked
for. The annotator answers what the labelling itself asks, with the labels of the stores; at each number of
labels the probe of the page is judged on the test patients. Prints a table in Markdown.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from wsitool.base.progress import SILENT
from wsitool.evaluation.color import color_features
from wsitool.evaluation.metrics import score
from wsitool.labelling.database import Database
from wsitool.labelling.features import features_of_patches
from wsitool.labelling.options import LabelOptions, Order
from wsitool.labelling.patches import Patches, groups_of_test, numbered, open_patches
from wsitool.labelling.probe import Judgement, fit_probe
from wsitool.labelling.session import Learning, Plan, Session

BUDGETS = (20, 40, 80, 160, 320)


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """Patches with their true labels (N,), features, and the test patients."""

    patches: Patches
    truth: np.ndarray
    learning: Learning
    plan: Plan

    def on_test(self, labels: dict[int, int]) -> float:
        """Balanced accuracy on the test patients of a probe on these labels."""
        rows = np.array(list(labels))
        test = np.isin(self.patches.groups, self.plan.test)
        probe = fit_probe(self.learning.features[rows], np.array(list(labels.values())))
        p = np.zeros((int(test.sum()), len(self.plan.classes)))
        if probe is None:  # one class so far
            p[:, next(iter(labels.values()))] = 1
        else:
            p[:, probe.classes] = probe.probabilities(self.learning.features[test])
        return score(p, self.truth[test])["balanced_accuracy"] or 0.0

    def with_all(self) -> float:
        """The same with every label there is."""
        train = np.flatnonzero(~np.isin(self.patches.groups, self.plan.test) & (self.truth >= 0))
        return self.on_test(dict(zip(train.tolist(), self.truth[train].tolist(), strict=True)))


def laboratory(
    stores: Sequence[str | Path], test: str, folder: Path, *, encoder: str, backbone: str | None = None
) -> Laboratory:
    """Open the stores, and compute or load their features (kept in `folder`)."""
    patches = open_patches(stores)
    options = LabelOptions(
        classes=patches.collection.classes, encoder=encoder, backbone=backbone, image_size=96
    )
    database = Database(folder / "features.db")
    learning = features_of_patches(patches, database, options, SILENT)
    database.close()
    named = tuple(sorted(groups_of_test([test], patches.collection)))
    plan = Plan(classes=patches.collection.classes, seed=0, shared=0.0, test=named)
    return Laboratory(
        patches=patches, truth=patches.collection.labels.astype(np.int64), learning=learning, plan=plan
    )


def curve(
    lab: Laboratory, order: Order, seed: int, budgets: Sequence[int], path: Path
) -> tuple[list[float], Judgement | str | None]:
    """Balanced accuracy on the test patients at each budget, and what the page said at the last."""
    database = Database(path)
    patches, records = numbered(lab.patches, [])
    database.begin({}, records)
    plan = Plan(**{**vars(lab.plan), "seed": seed})
    session = Session(patches, database, plan, order=order, learning=lab.learning)
    values = []
    for number in range(1, budgets[-1] + 1):
        asked = session.next("script", "truth")
        assert asked is not None, "more labels than patches"
        session.answer(
            id=str(number),
            client="script",
            annotator="truth",
            patch=asked.patch,
            kind="label",
            label=int(lab.truth[asked.patch]),
            chosen=asked.chosen,
        )
        # The others ask for the same whatever is learned, and are judged by the page at the end only.
        if session.due.is_set() and (order == "least-sure" or number == budgets[-1]):
            session.due.clear()
            session.refit()
        if number in budgets:
            values.append(lab.on_test(session.labels()))
    database.close()
    return values, session.judgement


def table(lab: Laboratory, seeds: int, budgets: Sequence[int], folder: Path) -> str:
    """Mean and standard deviation over seeds, in per cent; the last row learns from colour and edges."""
    color = Learning(features=color_features(lab.patches.collection), name="color")
    rows = [(order, lab, order) for order in get_args(Order)]
    rows.append(("patients, 24 colour and edge numbers", replace(lab, learning=color), "patients"))
    head = ["labels asked for", *(f"{budget}" for budget in budgets), "all", "the page says at the end"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, at, order in rows:
        curves, said = [], []
        for seed in range(seeds):
            values, judgement = curve(at, order, seed, budgets, folder / f"{name}-{seed}.db")
            curves.append(values)
            said += [judgement.value] if isinstance(judgement, Judgement) else []
        cells = [f"{100 * np.mean(v):.1f} ± {_sd(v):.1f}" for v in zip(*curves, strict=True)]
        end = f"{100 * np.mean(said):.1f} ± {_sd(said):.1f}" if said else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * at.with_all():.1f} | {end} |")
    return "\n".join(lines)


def _sd(values: Sequence[float]) -> float:
    return 100 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def main() -> None:
    stores, test, encoder, *rest = sys.argv[1:]
    backbone = rest[0] if rest else None
    seeds = int(rest[1]) if len(rest) > 1 else 5
    with tempfile.TemporaryDirectory() as made:
        kept = Path(rest[2]).parent if len(rest) > 2 else Path(made)
        lab = laboratory([stores], test, kept, encoder=encoder, backbone=backbone)
        features = time.process_time()
        text = table(lab, seeds, BUDGETS, Path(made))
    spent = time.process_time()
    text += (
        f"\n\nCPU-seconds: {features:.0f} for features, {spent - features:.0f} for {4 * seeds} labellings."
    )
    if len(rest) > 2:
        Path(rest[2]).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
