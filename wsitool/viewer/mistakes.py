"""What was called wrong, and what was least sure: of a run of `classify`, or of a cell of an `experiment`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wsitool.base.tables import Row, read_table
from wsitool.errors import UsageError, WsitoolError
from wsitool.evaluation.amounts import percent
from wsitool.experiment.judged import judged_by
from wsitool.experiment.plan_file import read_plan
from wsitool.viewer.library import Library
from wsitool.viewer.predicted import JUDGED_COLUMNS, judged_rows, manifest_hashes

__all__ = ["experiment_choices", "experiment_mistakes", "mistakes"]

_SHOWN, _SHOWN_OF_KIND = 120, 24
_BINS = 10


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A test patch, what it is, and what it was called with which probability."""

    slide: str
    content_hash: str
    group: str
    row: int
    label: str
    predicted: str
    probability: float


def mistakes(run: Path, library: Library) -> dict[str, Any]:
    """Counts by class and patient, and the patches most confidently wrong and least sure, see `_first`.

    `run` is the folder; of its table the test patches count where there are any, else all. WsitoolError
    where it cannot be read.
    """
    path = run / "predictions.csv"
    try:
        table = read_table(path, needs=JUDGED_COLUMNS)
    except WsitoolError:
        if "patches" in read_table(path, needs=("predicted",)).headers:
            raise UsageError(
                "This classifier judges whole slides: its report.html says which it gets wrong."
            ) from None
        raise
    classes = [header.removeprefix("p_") for name, header in table.headers.items() if name.startswith("p_")]
    judged, hashes = judged_rows(table), manifest_hashes(run)
    calls = [
        _Call(
            slide=row["slide"],
            content_hash=hashes.get(row["slide"], ""),
            group=row["group"],
            row=int(row["row"]),
            label=row["label"],
            predicted=row["predicted"],
            probability=_probability(row, row["predicted"]),
        )
        for row in judged
    ]
    return {"part": judged[0]["part"] if judged else "", "notes": []} | _summary(calls, classes, library)


def experiment_choices(folder: Path) -> dict[str, Any]:
    """The rows, amounts of labels and seeds of an experiment.

    WsitoolError where the folder is none of `experiment`.
    """
    plan = read_plan(folder / "plan.json")
    return {
        "rows": [row.name for row in plan.rows],
        "amounts": [percent(amount) for amount in plan.amounts],
        "seeds": [plan.seeds_of(amount) for amount in plan.amounts],
    }


def experiment_mistakes(folder: Path, row: int, amount: int, seed: int, library: Library) -> dict[str, Any]:
    """The same as `mistakes`, of a row of an experiment's table with one amount of labels and one seed.

    They are numbered as `experiment_choices` lists them. WsitoolError where they are not, or their cells
    cannot be joined with the patches they are of.
    """
    plan = read_plan(folder / "plan.json")
    if row >= len(plan.rows) or amount >= len(plan.amounts) or seed >= plan.seeds_of(plan.amounts[amount]):
        raise UsageError("The experiment has no such cell.")
    judged = judged_by(folder, plan, plan.rows[row], plan.amounts[amount], seed)
    called = judged.probabilities.argmax(axis=1).tolist()
    calls = [
        _Call(
            slide=at["slide"],
            content_hash=at["content_hash"],
            group=at["group"],
            row=int(at["row"]),
            label=at["label"],
            predicted=judged.classes[k],
            probability=float(p[k]),
        )
        for at, p, k in zip(judged.patches, judged.probabilities, called, strict=True)
    ]
    return {"part": "test", "notes": list(judged.notes)} | _summary(calls, judged.classes, library)


def _summary(calls: Sequence[_Call], classes: Sequence[str], library: Library) -> dict[str, Any]:
    wrong = sorted((call for call in calls if call.label != call.predicted), key=lambda c: -c.probability)
    counts: dict[str, dict[str, int]] = {}
    groups: dict[str, list[int]] = {}
    bins: dict[int, list[float]] = {}
    for call in calls:
        right = call.label == call.predicted
        line = counts.setdefault(call.label, {})
        line[call.predicted] = line.get(call.predicted, 0) + 1
        group = groups.setdefault(call.group, [0, 0])
        group[0] += 1
        group[1] += not right
        one_bin = bins.setdefault(min(int(call.probability * _BINS), _BINS - 1), [0, 0.0, 0])
        one_bin[0] += 1
        one_bin[1] += call.probability
        one_bin[2] += right
    find = cache(library.slide_of_store)

    def told(some: Sequence[_Call]) -> list[dict[str, Any]]:
        slides = [find(call.slide, call.content_hash) for call in some]
        return [
            vars(call) | {"slide": None if slide is None else slide.id, "name": call.slide}
            for call, slide in zip(some, slides, strict=True)
        ]

    return {
        "classes": list(classes),
        "confusion": counts,
        "groups": [{"name": name, "patches": all_, "wrong": bad} for name, (all_, bad) in groups.items()],
        # Mean probability of the class that was called, and how often it was right, in ten equal bins.
        "reliability": [
            {"patches": n, "probability": total / n, "right": right / n}
            for n, total, right in (bins[number] for number in sorted(bins))
        ],
        "patches": len(calls),
        "wrong": len(wrong),
        "most_confident": told(_first(wrong)),
        "least_sure": told(_first(sorted(calls, key=lambda call: call.probability))),
    }


def _first(calls: Sequence[_Call]) -> list[_Call]:
    """Of sorted calls the first 120, and the first 24 of each class and of each patient."""
    seen: Counter[tuple[str, str]] = Counter()
    some = []
    for number, call in enumerate(calls):
        kinds = [("label", call.label), ("group", call.group)]
        seen.update(kinds)
        if number < _SHOWN or any(seen[kind] <= _SHOWN_OF_KIND for kind in kinds):
            some.append(call)
    return some


def _probability(row: Row, name: str) -> float:
    try:
        return float(row[f"p_{name}".lower()])
    except ValueError:
        return 0.0
