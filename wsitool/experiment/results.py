"""From the cells' predictions to figures: means over seeds, intervals over patients, comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Amount, Select, amount_of, percent
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.guessing import Guessing, against_guessing
from wsitool.evaluation.intervals import Comparison, Interval, Jackknife, compare, holm
from wsitool.evaluation.metrics import METRICS, confusion_matrix, score
from wsitool.evaluation.summary import mean_by
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import Cell, EvaluationSplit, open_splits
from wsitool.experiment.mark import Reach, margin_of, no_mark, reaches
from wsitool.experiment.plan import COLOR, Arm, ExperimentPlan, Row, order_of

__all__ = ["ArmResult", "Results", "as_json", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One row at one fraction, `arm` being the row's name.

    `runs` are probabilities (N, K), one per seed, of the same N test patches. `rates` has one entry for each
    cell that chose among several lrs of pretraining: split, seed, the lr taken, the validation loss of every
    candidate, and whether it is over groups or patches. `fold_auroc` is the mean of the folds' own AUROCs,
    beside which that of `mean` also ranks patches of different folds against each other; None without folds.
    """

    arm: str
    select: Select
    fraction: Amount
    runs: tuple[Floats, ...]
    mean: dict[str, float | None]
    spread: dict[str, float | None]
    jackknife: Jackknife
    intervals: dict[str, Interval | None]
    guessing: Guessing
    image_accuracy: float | None
    fold_auroc: float | None
    calibrated_ece: float
    confusion: NDArray[np.int64]
    trained_on: int
    penalties: dict[str, int]
    rates: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything the report is written from.

    `same_fraction` compares each arm with the baseline at its own fraction and in its own order of labels,
    `same_arm` each further order with the arm's first one at the same fraction, `with_full` each arm with the
    baseline at the largest fraction, the mark; all are keyed by (row, fraction). The baseline is
    "supervised", or the first arm without it, in the plan's first order. P-values of `same_fraction` and
    `same_arm` are adjusted for the number of all of them. `reach` says of each other arm how far down it is
    within `margin` (a share) of the mark; where `no_mark` says why there is none it is empty. `color` is the
    color baseline at each fraction, `against_color` compares each arm's AUROC with its.
    """

    plan: ExperimentPlan
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    baseline: str
    arms: dict[tuple[str, Amount], ArmResult]
    same_fraction: dict[tuple[str, Amount], Comparison]
    same_arm: dict[tuple[str, Amount], Comparison]
    with_full: dict[tuple[str, Amount], Comparison]
    margin: float
    no_mark: str
    reach: dict[str, Reach]
    color: dict[Amount, ArmResult]
    against_color: dict[tuple[str, Amount], Comparison]

    @property
    def full(self) -> ArmResult:
        """The baseline with all the labels it was given."""
        return self.arms[self.baseline, max(self.plan.amounts)]

    @property
    def at_the_same_labels(self) -> tuple[Comparison, ...]:
        """All of `same_fraction` and `same_arm`, each once: with all labels every order is the same."""
        made = (*self.same_fraction.values(), *self.same_arm.values())
        return tuple({id(comparison): comparison for comparison in made}.values())


def summarise(
    plan: ExperimentPlan,
    splits: Sequence[EvaluationSplit],
    cells: Mapping[Cell, CellResult],
    color: Mapping[Cell, CellResult] = MappingProxyType({}),
) -> Results:
    """Join the splits' predictions, average over seeds, and compare arms on the same patches.

    `cells` must hold every cell of the plan, `color` those of the color baseline or none.
    """
    _check_comparable(cells)
    tests = [split.test.patches for split in splits]
    # All splits one after the other: in cross-validation each patch is tested once.
    labels = np.concatenate([patches.labels for patches in tests])
    groups = np.concatenate([patches.groups for patches in tests])
    truth = (labels, groups, np.concatenate([patches.images for patches in tests]))
    arms = _rows(plan, cells, truth, tests[0].classes)
    beside_row = Row(name=COLOR.name, arm=COLOR, select=plan.drawn)
    beside = {
        fraction: _arm(beside_row, plan.drawn, fraction, color, truth, tests[0].classes, plan)
        for fraction in (plan.amounts if color else ())
    }
    first = {row.arm: row.name for row in reversed(plan.rows)}
    baseline = first[plan.base]
    full = arms[baseline, max(plan.amounts)]
    with_full = {
        key: compare(arm_result.jackknife, full.jackknife)
        for key, arm_result in arms.items()
        if arm_result.jackknife is not full.jackknife
    }
    patients = full.jackknife.patients
    margin = margin_of(plan.margin, patients.count)
    nothing = no_mark(full.guessing, full.intervals["accuracy"], full.jackknife.reason("accuracy"))
    others = [row.name for row in plan.rows if row.name != baseline]
    same_fraction, same_arm = _at_the_same_labels(plan, arms)
    return Results(
        plan=plan,
        classes=tests[0].classes,
        labels=labels,
        groups=tuple(sorted(set(groups.tolist()))),
        baseline=baseline,
        arms=arms,
        same_fraction=same_fraction,
        same_arm=same_arm,
        with_full=with_full,
        margin=margin,
        no_mark=nothing,
        reach={} if nothing else reaches(with_full, others, plan.amounts, margin),
        color=beside,
        against_color={
            key: compare(arm_result.jackknife, beside[key[1]].jackknife, "auroc")
            for key, arm_result in (arms.items() if beside else ())
        },
    )


def _check_comparable(cells: Mapping[Cell, CellResult]) -> None:
    """UsageError where arms were trained on other labels, or judged on others, than their comparison says."""
    seen: dict[tuple[object, ...], str | None] = {}
    for cell, result in cells.items():
        labels = [] if cell.asks else [("subset", cell.fraction, cell.select, cell.seed, cell.split)]
        for key in [*labels, ("judged", cell.split)]:
            told = result.facts.get(str(key[0]))  # cells of earlier builds do not say all
            if told is not None and seen.setdefault(key, told) != told:
                where = f"{cell.arm.name}, {percent(cell.fraction)}, seed {cell.seed}, split {cell.split + 1}"
                raise UsageError(
                    f"The cells are not of the same labels in every arm and cannot be compared ({where}): "
                    "run the experiment with another --out."
                )


def _rows(
    plan: ExperimentPlan,
    cells: Mapping[Cell, CellResult],
    truth: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]],
    classes: tuple[str, ...],
) -> dict[tuple[str, Amount], ArmResult]:
    """Each row at each fraction; rows of the same cells have one `jackknife`, which says so."""
    arms: dict[tuple[str, Amount], ArmResult] = {}
    made: dict[tuple[Arm, Amount, Select], ArmResult] = {}
    for row in plan.rows:
        for fraction in plan.amounts:
            order = order_of(plan, fraction, row.select)
            key = (row.arm, fraction, order)
            if key not in made:
                made[key] = _arm(row, order, fraction, cells, truth, classes, plan)
            arms[row.name, fraction] = replace(made[key], arm=row.name, select=row.select)
    return arms


def _at_the_same_labels(
    plan: ExperimentPlan, arms: Mapping[tuple[str, Amount], ArmResult]
) -> tuple[dict[tuple[str, Amount], Comparison], dict[tuple[str, Amount], Comparison]]:
    """Arms against the baseline of their order, and orders against the first of their arm.

    P-values are adjusted for all of them together; what is the same comparison is made and counted once.
    """
    names = {(row.arm, row.select): row.name for row in plan.rows}
    others = [row for row in plan.rows if row.arm != plan.base]
    later = [row for row in plan.rows if row.select != plan.select[0]]
    pairs = (
        {(row.name, each): (names[plan.base, row.select], each) for row in others for each in plan.amounts},
        {
            (row.name, each): (names[row.arm, plan.select[0]], each)
            for row in later
            for each in plan.amounts
            if order_of(plan, each, row.select) != order_of(plan, each, plan.select[0])
        },
    )
    made: dict[tuple[int, int], Comparison] = {}
    keys = []
    for against in pairs:
        both = {key: (arms[key].jackknife, arms[other].jackknife) for key, other in against.items()}
        keys.append({key: (id(a), id(b)) for key, (a, b) in both.items()})
        made |= {(id(a), id(b)): compare(a, b) for a, b in both.values()}
    adjusted = holm([comparison.p_value for comparison in made.values()])
    made = {
        key: replace(comparison, adjusted_p=p)
        for (key, comparison), p in zip(made.items(), adjusted, strict=True)
    }
    same_fraction, same_arm = ({key: made[pair] for key, pair in each.items()} for each in keys)
    return same_fraction, same_arm


def _arm(
    row: Row,
    order: Select,
    fraction: Amount,
    cells: Mapping[Cell, CellResult],
    truth: tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]],
    classes: tuple[str, ...],
    plan: ExperimentPlan,
) -> ArmResult:
    labels, groups, images = truth
    mine = [cell for cell in cells if (cell.arm, cell.fraction, cell.select) == (row.arm, fraction, order)]
    index = np.unique(groups, return_inverse=True)[1]
    # One row a seed, its splits in order, so that predictions line up with `labels`.
    by_seed = [
        sorted((cell for cell in mine if cell.seed == seed), key=lambda cell: cell.split)
        for seed in range(plan.seeds_of(fraction))
    ]
    # (N, K) per seed, uncalibrated; each cell's own temperature is applied below.
    runs = tuple(np.concatenate([softmax(cells[cell].logits) for cell in row]) for row in by_seed)
    calibrated = [
        np.concatenate([softmax(cells[cell].logits, cells[cell].facts["temperature"]) for cell in row])
        for row in by_seed
    ]
    scores = [score(run, labels) for run in runs]
    jackknife = Jackknife.of(runs, labels, index)
    per_image = [_image_accuracy(run, labels, images) for run in runs]
    return ArmResult(
        arm=row.name,
        select=row.select,
        fraction=fraction,
        runs=runs,
        mean={metric: _mean([row[metric] for row in scores]) for metric in METRICS},
        spread={metric: _spread([row[metric] for row in scores]) for metric in METRICS},
        jackknife=jackknife,
        intervals=jackknife.intervals(),
        guessing=against_guessing(runs, labels, index, classes),
        image_accuracy=_mean(per_image),
        fold_auroc=_fold_auroc([[cells[cell].logits for cell in row] for row in by_seed], labels),
        calibrated_ece=float(np.mean([score(run, labels)["ece"] for run in calibrated])),
        confusion=np.sum(
            [confusion_matrix(labels, run.argmax(axis=1), run.shape[1]) for run in runs], axis=0
        ),
        # The mean over cells, as fold sizes differ by a few patches.
        trained_on=round(float(np.mean([_patches(cells[cell]) for cell in mine]))),
        penalties=_penalties([cells[cell] for cell in mine]),
        rates=tuple(
            _rate(plan, cell, cells[cell]) for cell in mine if cells[cell].facts.get("pretrain_lr_search")
        ),
    )


def _rate(plan: ExperimentPlan, cell: Cell, result: CellResult) -> dict[str, Any]:
    figures = result.facts
    name = open_splits(plan)[cell.split].name
    # The key of before, kept for readers of results.json.
    return {"round": name, "seed": cell.seed, "lr": figures["pretrain_lr"], **figures["pretrain_lr_search"]}


def _penalties(results: Sequence[CellResult]) -> dict[str, int]:
    """How many of the cells use each penalty C of a linear head; empty for other heads."""
    penalties = Counter(result.facts["c"] for result in results if result.facts["c"] is not None)
    return {f"{c:g}": count for c, count in sorted(penalties.items())}


def _patches(result: CellResult) -> int:
    """Labelled patches a cell used, for training and validation."""
    return int(result.facts["trained_on"]) + int(result.facts["validated_on"])


def _image_accuracy(run: Floats, labels: NDArray[np.int64], images: NDArray[np.str_]) -> float | None:
    images_seen, means, true = mean_by(run, labels, images)
    # None where every image is one patch: it would be the patch accuracy again.
    return float((means.argmax(axis=1) == true).mean()) if 0 < len(images_seen) < len(labels) else None


def _fold_auroc(seeds: Sequence[Sequence[Floats]], labels: NDArray[np.int64]) -> float | None:
    if len(seeds[0]) < 2:
        return None
    ends = np.cumsum([len(logits) for logits in seeds[0]])
    parts = np.split(labels, ends[:-1])
    return _mean(
        [
            score(softmax(logits), part)["auroc"]
            for row in seeds
            for logits, part in zip(row, parts, strict=True)
        ]
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _spread(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    # Sample deviation; of one seed there is none.
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None


def as_json(results: Results) -> dict[str, Any]:
    """results.json: the plan and every figure, without the predictions (those are in the cells)."""
    full = results.full.guessing
    return {
        "plan": results.plan.to_dict(),
        "classes": list(results.classes),
        f"test_{results.plan.counted}": len(results.labels),
        "test_groups": list(results.groups),
        "baseline": results.baseline,
        "margin": results.margin,
        "no_mark": results.no_mark,
        "reach": {name: reach.to_dict() for name, reach in results.reach.items()},
        "rows": [_row(results, arm_result) for arm_result in results.arms.values()],
        "majority_class": {"class": full.majority_class, "accuracy": full.majority_share},
        "color_baseline": [_row(results, arm_result) for arm_result in results.color.values()],
    }


def _row(results: Results, arm_result: ArmResult) -> dict[str, Any]:
    return {
        "arm": arm_result.arm,
        "select": arm_result.select,
        **amount_of(arm_result.fraction),
        f"labelled_{results.plan.counted}": arm_result.trained_on,
        "mean": arm_result.mean,
        "guessing": arm_result.guessing.to_dict(),
        "sd_over_seeds": arm_result.spread,
        "intervals": {name: vars(value) if value else None for name, value in arm_result.intervals.items()},
        "no_interval": arm_result.jackknife.reasons(),
        "per_seed": [score(run, results.labels) for run in arm_result.runs],
        "image_accuracy": arm_result.image_accuracy,
        "auroc_per_fold": arm_result.fold_auroc,
        "ece_calibrated": arm_result.calibrated_ece,
        "cells_by_penalty": arm_result.penalties,
        "pretrain_lr_choices": list(arm_result.rates),
        "confusion_all_seeds": arm_result.confusion.tolist(),
        "against_baseline_at_same_fraction": _comparison(results.same_fraction, arm_result),
        "against_first_order": _comparison(results.same_arm, arm_result),
        "against_baseline_with_all_labels": _comparison(results.with_full, arm_result),
        "auroc_against_color": _comparison(results.against_color, arm_result),
    }


def _comparison(
    comparisons: Mapping[tuple[str, Amount], Comparison], arm_result: ArmResult
) -> dict[str, Any] | None:
    comparison = comparisons.get((arm_result.arm, arm_result.fraction))
    # None for the baseline, which is not compared with itself.
    return None if comparison is None else comparison.to_dict()
