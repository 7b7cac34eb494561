"""What the figures say, in sentences: who reaches full supervision with how little, who hurts, how sure."""

from __future__ import annotations

import math

from wsitool.classify.head_registry import HEADS
from wsitool.classify.settings import FEW_STEPS
from wsitool.evaluation.statistics import Comparison
from wsitool.experiment.plan import percent
from wsitool.experiment.results import ArmResult, Results

__all__ = ["caveats", "choices", "said_first", "verdicts"]

# Below some 20 groups percentile intervals are too narrow, see `evaluation.statistics`.
_FEW_GROUPS = 20


def said_first(results: Results) -> str:
    """What must be known of the mark before anything is compared with it; "" where it is beyond guessing."""
    full = results.full
    if not (sentence := full.guessing.sentence()):
        return ""
    mark = (
        f"{results.baseline} with {percent(full.fraction)} of the labels, which the others are compared with"
    )
    if full.guessing.better:
        return f"{mark}: {sentence}"
    return f"{mark}: {sentence} No conclusion is drawn from the figures."


def verdicts(results: Results) -> list[str]:
    """What must be said first; a paragraph for the baseline's curve and one for each other arm.

    Where the baseline with all labels is no better than guessing nothing is concluded from it.
    """
    first = [line] if (line := said_first(results)) else []
    # Nothing is concluded from a mark that is no better than guessing, whatever the other arms reach.
    return first + _compared(results) if results.full.guessing.better else first


def _compared(results: Results) -> list[str]:
    full = results.full
    baseline_lines = [
        f"{percent(arm_result.fraction)}: {_accuracy(arm_result)}"
        for (arm, _), arm_result in sorted(results.arms.items(), key=lambda item: item[0][1])
        if arm == results.baseline and arm_result is not full
    ]
    less = f" With less: {'; '.join(baseline_lines)}." if baseline_lines else ""
    lines = [
        f"{results.baseline} with {percent(full.fraction)} of the labels is the mark: {_accuracy(full)} of "
        f"the test patches right.{less}"
    ]
    names = [arm.name for arm in results.plan.arms if arm.name != results.baseline]
    return lines + [f"{_reach(results, name)} {_same(results, name)}" for name in names]


def caveats(results: Results) -> list[str]:
    """What the figures cannot say."""
    count, seeds = len(results.groups), results.plan.seeds
    lines = [
        f"Intervals resample the {count} test groups (patients), and figures are means over {seeds} label "
        f"seed{'s' if seeds != 1 else ''}; comparisons are paired on the same patches."
    ]
    if count < _FEW_GROUPS:
        lines.append(
            f"{count} groups are few: intervals of this kind are then too narrow, so take differences whose "
            "interval barely leaves zero as undecided."
        )
    if (steps := _steps(results)) is not None and steps < FEW_STEPS:
        lines.append(
            f"Even with the most labels fine-tuning took {steps} optimizer steps at most, fewer than "
            f"{FEW_STEPS}: the networks are hardly trained."
        )
    comparisons = len(results.same_fraction)
    if comparisons > 1:
        lines.append(
            f"The p-values are not corrected for the {comparisons} comparisons made; with that many, one in "
            "twenty falls below .05 by chance."
        )
    if results.plan.pretrain_seeds == 1 and len(results.plan.methods) > 1:
        lines.append(
            "Each encoder was pretrained once: the spread over seeds is that of the labels and the "
            "classifier, not of pretraining."
        )
    if results.plan.split == "patch":
        lines.append(
            "The split is by patch, as in the paper: patients are on both sides, so figures flatter."
        )
    return lines


def _steps(results: Results) -> int | None:
    """Optimizer steps of one fine-tuning of the baseline, all epochs; None for heads on frozen features."""
    plan = results.plan
    if HEADS[plan.head].frozen:
        return None
    # `trained_on` counts training and validation patches together, hence the share.
    return plan.epochs * math.ceil(results.full.trained_on * (1 - plan.validation) / plan.batch_size)


def choices(results: Results) -> list[str]:
    """How the lr of pretraining was chosen, if the plan has several, and what that means for the baseline."""
    cells = [rate for arm_result in results.arms.values() for rate in arm_result.rates]
    if not cells:
        return []
    tried = [f"{lr:g}" for lr in results.plan.pretrain_lrs]
    # Cells whose groups did not suffice fell back to patches, see `classify.penalty` and `splits`.
    patches = sum(rate["by"] == "patch" for rate in cells)
    fallback = (
        f" In {patches} of {len(cells)} cells the labelled groups were too few for that, and it was the loss "
        "of held-out patches."
    )
    lines = [
        f"Of the pretraining lrs {', '.join(tried)} each cell took the one whose classifier had the lowest "
        "loss on validation groups inside its own training subset; the test groups had no part in it. The "
        "encoders had seen the patches of the validation groups, without labels."
        + (fallback if patches else "")
    ]
    if "supervised" in results.plan.methods:
        lines.append(
            "The supervised arm has no pretraining and so no such choice: what the choice gains or loses is "
            f"part of the other arms' figures, and of their cost: {len(tried)} pretrainings instead of one."
        )
    return lines


def _reach(results: Results, name: str) -> str:
    full = results.full
    mark = full.mean["accuracy"] or 0.0
    # The smallest fraction that reaches it, not the best one.
    for fraction in sorted(results.plan.fractions):
        arm_result = results.arms[name, fraction]
        # By the mean alone; how sure that is stands in the sentence.
        if (arm_result.mean["accuracy"] or 0.0) >= mark:
            return (
                f"{name} reaches the mark with {percent(fraction)} of the labels: {_accuracy(arm_result)}, a "
                f"difference of {_sure(results.with_full[name, fraction])}."
            )
    best = max((results.arms[name, f] for f in results.plan.fractions), key=lambda a: a.mean["accuracy"] or 0)
    return (
        f"{name} does not reach the mark with any fraction tried; its best is {_accuracy(best)} with "
        f"{percent(best.fraction)}, a difference of {_sure(results.with_full.get((name, best.fraction)))}."
    )


def _same(results: Results, name: str) -> str:
    helps: list[str] = []
    hurts: list[str] = []
    unclear: list[str] = []
    for fraction in sorted(results.plan.fractions):
        comparison = results.same_fraction[name, fraction]
        text = f"{percent(fraction)} ({_points(comparison.difference) if comparison else 'one group'}"
        text += f", p = {comparison.p_value:.3f})" if comparison else ")"
        # The interval decides what is said; the p-value stands beside it.
        if comparison is not None and comparison.low > 0:
            helps.append(text)
        elif comparison is not None and comparison.high < 0:
            hurts.append(text)
        else:
            unclear.append(text)
    parts = [f"helps at {', '.join(helps)}"] if helps else []
    parts += [f"HURTS at {', '.join(hurts)}"] if hurts else []
    parts += [f"makes no difference these data can show at {', '.join(unclear)}"] if unclear else []
    return f"Against {results.baseline} with the same labels it {'; '.join(parts)}."


def _sure(comparison: Comparison | None) -> str:
    if comparison is None:
        return "unknown certainty (one test group)"
    sure = (
        "these data cannot tell the two apart"
        if comparison.low <= 0 <= comparison.high
        else "beyond chance here"
    )
    return (
        f"{_points(comparison.difference)} (95 % interval {100 * comparison.low:+.1f} "
        f"to {_points(comparison.high)}, p = {comparison.p_value:.3f}; {sure})"
    )


def _accuracy(arm_result: ArmResult) -> str:
    value = arm_result.mean["accuracy"]
    return "undefined" if value is None else f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"
