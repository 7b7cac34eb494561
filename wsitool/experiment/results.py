"""From the cells' predictions to figures: means over seeds, intervals over patients, paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.guessing import Guessing, against_guessing
from wsitool.evaluation.metrics import METRICS, confusion_matrix, score
from wsitool.evaluation.statistics import Comparison, Interval, group_intervals, paired_comparison
from wsitool.evaluation.summary import mean_by
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import Cell, Round, open_rounds
from wsitool.experiment.plan import Plan

__all__ = ["ArmResult", "Results", "as_json", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm at one fraction; `runs` are probabilities (N, K), one per seed, of the same N test patches.

    `rates` has one entry for each cell that chose among several lrs of pretraining: round, seed, the lr
    taken, the validation loss of every candidate, and whether it is over groups or patches.
    """

    arm: str
    fraction: float
    runs: tuple[Floats, ...]
    mean: dict[str, float | None]
    spread: dict[str, float | None]
    intervals: dict[str, Interval | None]
    guessing: Guessing
    image_accuracy: float | None
    calibrated_ece: float
    confusion: NDArray[np.int64]
    trained_on: int
    penalties: dict[str, int]
    rates: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything the report is written from.

    `same_fraction` compares each arm with the baseline at its own fraction, `with_full` with the baseline at
    the largest; both are keyed by (arm, fraction). The baseline is "supervised", or the first arm without it.
    """

    plan: Plan
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    baseline: str
    arms: dict[tuple[str, float], ArmResult]
    same_fraction: dict[tuple[str, float], Comparison | None]
    with_full: dict[tuple[str, float], Comparison | None]

    @property
    def full(self) -> ArmResult:
        """The baseline with all the labels it was given."""
        return self.arms[self.baseline, max(self.plan.fractions)]


def summarise(plan: Plan, rounds: Sequence[Round], cells: Mapping[Cell, CellResult]) -> Results:
    """Join the rounds' predictions, average over seeds, and compare arms on the same patches."""
    tests = [chosen.test.patches for chosen in rounds]
    labels = np.concatenate([patches.labels for patches in tests])
    groups = np.concatenate([patches.groups for patches in tests])
    images = np.concatenate([patches.images for patches in tests])
    arms = {
        (arm.name, fraction): _arm(
            arm.name, fraction, cells, (labels, groups, images), tests[0].classes, plan
        )
        for arm in plan.arms
        for fraction in plan.fractions
    }
    baseline = "supervised" if "supervised" in plan.methods else plan.methods[0]
    full = arms[baseline, max(plan.fractions)]

    def compare(a: ArmResult, b: ArmResult) -> Comparison | None:
        return paired_comparison(a.runs, b.runs, labels, np.unique(groups, return_inverse=True)[1])

    others = {place: found for place, found in arms.items() if place[0] != baseline}
    return Results(
        plan=plan,
        classes=tests[0].classes,
        labels=labels,
        groups=tuple(sorted(set(groups.tolist()))),
        baseline=baseline,
        arms=arms,
        same_fraction={place: compare(found, arms[baseline, place[1]]) for place, found in others.items()},
        with_full={place: compare(found, full) for place, found in arms.items() if found is not full},
    )


def _arm(
    name: str,
    fraction: float,
    cells: Mapping[Cell, CellResult],
    truth: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]],
    classes: tuple[str, ...],
    plan: Plan,
) -> ArmResult:
    labels, groups, images = truth
    mine = [cell for cell in cells if cell.arm.name == name and cell.fraction == fraction]
    index = np.unique(groups, return_inverse=True)[1]
    by_seed = [
        sorted((cell for cell in mine if cell.seed == seed), key=lambda cell: cell.round)
        for seed in range(plan.seeds)
    ]
    runs = tuple(np.concatenate([softmax(cells[cell].logits) for cell in row]) for row in by_seed)
    calibrated = [
        np.concatenate([softmax(cells[cell].logits, cells[cell].facts["temperature"]) for cell in row])
        for row in by_seed
    ]
    scores = [score(run, labels) for run in runs]
    per_image = [_image_accuracy(run, labels, images) for run in runs]
    return ArmResult(
        arm=name,
        fraction=fraction,
        runs=runs,
        mean={metric: _mean([row[metric] for row in scores]) for metric in METRICS},
        spread={metric: _spread([row[metric] for row in scores]) for metric in METRICS},
        intervals=group_intervals(runs, labels, index),
        guessing=against_guessing(runs, labels, index, classes),
        image_accuracy=_mean(per_image),
        calibrated_ece=float(np.mean([score(run, labels)["ece"] for run in calibrated])),
        confusion=np.sum(
            [confusion_matrix(labels, run.argmax(axis=1), run.shape[1]) for run in runs], axis=0
        ),
        trained_on=round(float(np.mean([_patches(cells[cell]) for cell in mine]))),
        penalties=_penalties([cells[cell] for cell in mine]),
        rates=tuple(
            _rate(plan, cell, cells[cell]) for cell in mine if cells[cell].facts.get("pretrain_lr_search")
        ),
    )


def _rate(plan: Plan, cell: Cell, result: CellResult) -> dict[str, Any]:
    facts = result.facts
    name = open_rounds(plan)[cell.round].name
    return {"round": name, "seed": cell.seed, "lr": facts["pretrain_lr"], **facts["pretrain_lr_search"]}


def _penalties(results: Sequence[CellResult]) -> dict[str, int]:
    """How many of the cells use each penalty C of a linear head; empty for other heads."""
    known = Counter(result.facts["c"] for result in results if result.facts["c"] is not None)
    return {f"{c:g}": count for c, count in sorted(known.items())}


def _patches(result: CellResult) -> int:
    """Labelled patches a cell used, for training and validation."""
    return int(result.facts["trained_on"]) + int(result.facts["validated_on"])


def _image_accuracy(run: Floats, labels: NDArray[np.int64], images: NDArray[np.str_]) -> float | None:
    found, means, true = mean_by(run, labels, images)
    return float((means.argmax(axis=1) == true).mean()) if 0 < len(found) < len(labels) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def as_json(results: Results) -> dict[str, Any]:
    """results.json: the plan and every figure, without the predictions (those are in the cells)."""
    rows = [
        {
            "arm": found.arm,
            "fraction": found.fraction,
            "labelled_patches": found.trained_on,
            "mean": found.mean,
            "guessing": found.guessing.to_dict(),
            "sd_over_seeds": found.spread,
            "intervals": {name: vars(value) if value else None for name, value in found.intervals.items()},
            "per_seed": [score(run, results.labels) for run in found.runs],
            "image_accuracy": found.image_accuracy,
            "ece_calibrated": found.calibrated_ece,
            "cells_by_penalty": found.penalties,
            "pretrain_lr_choices": list(found.rates),
            "confusion_all_seeds": found.confusion.tolist(),
            "against_baseline_at_same_fraction": _comparison(results.same_fraction, found),
            "against_baseline_with_all_labels": _comparison(results.with_full, found),
        }
        for found in results.arms.values()
    ]
    return {
        "plan": results.plan.to_dict(),
        "classes": list(results.classes),
        "test_patches": len(results.labels),
        "test_groups": list(results.groups),
        "baseline": results.baseline,
        "rows": rows,
    }


def _comparison(
    known: Mapping[tuple[str, float], Comparison | None], found: ArmResult
) -> dict[str, Any] | None:
    comparison = known.get((found.arm, found.fraction))
    return None if comparison is None else vars(comparison)
