"""What the figures say, in sentences: who reaches full supervision with how little, who hurts, how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from wsitool.classify.head_registry import HEADS
from wsitool.classify.settings import FEW_STEPS
from wsitool.evaluation.amounts import Amount, asks, percent
from wsitool.evaluation.guessing import as_p
from wsitool.evaluation.intervals import Comparison
from wsitool.experiment.mark import Reach
from wsitool.experiment.plan import COLOR, Row
from wsitool.experiment.results import ArmResult, Results

__all__ = ["caveats", "choices", "learned_color", "said_first", "verdicts"]

_LEVEL = 0.05  # of the adjusted p-values
_NOTABLE_SHARE = 0.2
_UNCLEAR = "makes no difference these data can show"


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
    return first + _compared(results) + learned_color(results) if results.full.guessing.better else first


def _compared(results: Results) -> list[str]:
    full = results.full
    baseline_lines = [
        f"{percent(arm_result.fraction)}: {_accuracy(arm_result)}"
        for (arm, _), arm_result in sorted(results.arms.items(), key=lambda item: item[0][1])
        if arm == results.baseline and arm_result is not full
    ]
    less = f" With less: {'; '.join(baseline_lines)}." if baseline_lines else ""
    name = f"{results.baseline} with {percent(full.fraction)} of the labels"
    right = f"{_accuracy(full)} of the test {results.plan.counted} right"
    if results.no_mark:
        lines = [f"There is no mark to reach: {name} has {right}, but {results.no_mark}.{less}"]
    else:
        interval = full.intervals["accuracy"]
        bounds = "" if interval is None else f" (95 % interval {_bounds(interval.low, interval.high)})"
        lines = [
            f"{name} is the mark: {right}{bounds}. An arm reaches it where it is shown to be at most "
            f"{100 * results.margin:g} points below.{less}"
        ]
    for row in results.plan.rows:
        parts = [_reach(results, row.name)] if row.name in results.reach else []
        parts += _at_the_same_labels(results, row)
        lines += [" ".join(parts)] if parts else []
    return lines


def _at_the_same_labels(results: Results, row: Row) -> list[str]:
    """A row against the baseline in its order, and against its own arm in the first order."""
    names = {(other.arm, other.select): other.name for other in results.plan.rows}
    first, base = results.plan.select[0], results.plan.base
    compared = (
        (results.same_fraction, f"{names[base, row.select]} with the same labels"),
        (results.same_arm, f"as many labels in the order {first}"),
    )
    return [
        _same(comparisons, row.name, against)
        for comparisons, against in compared
        if any(name == row.name for name, _ in comparisons)
    ]


def learned_color(results: Results) -> list[str]:
    """Which arms are shown to rank better than the color baseline on the same labels, and which are not."""
    lines = []
    for arm in [row.name for row in results.plan.rows] if results.color else ():
        beats: list[str] = []
        fails: list[str] = []
        for fraction in sorted(results.plan.amounts):
            comparison = results.against_color[arm, fraction]
            figures = [results.arms[arm, fraction].mean["auroc"], results.color[fraction].mean["auroc"]]
            both = " against ".join("-" if value is None else f"{value:.3f}" for value in figures)
            shown = comparison.low is not None and comparison.low > 0
            (beats if shown else fails).append(f"{percent(fraction)} ({both})")
        line = f"{arm} ranks better than the {COLOR.name} at {', '.join(beats)}. " if beats else ""
        if fails:
            line += (
                f"{arm} is not shown to beat the {COLOR.name} (24 colour and edge numbers, logistic "
                f"regression; AUROC) at {', '.join(fails)}: there it has learned color, as far as these data "
                "can show."
            )
        lines.append(line.strip())
    return lines


def caveats(results: Results) -> list[str]:
    """What the figures cannot say."""
    count, plan = len(results.groups), results.plan
    if reason := results.full.jackknife.patients.reason:
        lines = [f"No figure has an interval, and no two are compared: {reason}."]
    else:
        luck = (
            "whose spread the intervals hold too" if plan.most_seeds > 1 else "whose luck no interval holds"
        )
        lines = [
            f"Intervals leave out each of the {count} test groups (patients) in turn; figures are means over "
            f"{plan.seeds_text}, {luck}; comparisons are paired on the same {plan.counted}."
        ]
    lines += _power(results) + _asked(results)
    if plan.of_slides:
        lines.append(
            "No network is trained on labels: heads of slides learn on the features of networks that stay as "
            f"they are, of a {plan.one} as a whole."
        )
    elif HEADS[plan.head].frozen and results.baseline == "supervised":
        lines.append(
            f"No network is trained on labels (--head {plan.head}): supervised is a probe of the network it "
            f"starts from ({plan.init}), and fine-tuning it with all labels may do better than this mark."
        )
    if (steps := _steps(results)) is not None and steps < FEW_STEPS:
        lines.append(
            f"Even with the most labels fine-tuning took {steps} optimizer steps at most, fewer than "
            f"{FEW_STEPS}: the networks are hardly trained."
        )
    if results.plan.pretrain_seeds == 1 and any(arm.method for arm in results.plan.arms):
        lines.append(
            "Each encoder was pretrained once: the spread over seeds is that of the labels and the "
            "classifier, not of pretraining."
        )
    if results.plan.split == "patch":
        lines.append(
            "The split is by patch, as in the paper: patients are on both sides, so figures flatter."
        )
    return lines


def _power(results: Results) -> list[str]:
    """What differences could have been shown, what would narrow intervals, how p-values are adjusted."""
    compared = [comparison.error for comparison in results.at_the_same_labels]
    errors = sorted((error for error in compared if error is not None), key=lambda error: error.detectable)
    if not errors:
        return []
    least, most = (f"{100 * error.detectable:.1f}" for error in (errors[0], errors[-1]))
    points = least if least == most else f"{least} to {most}"
    lines = [
        f"With these patients and seeds a true difference of {points} points at the same labels would have "
        "been found four times in five (p < .05, before adjustment); smaller ones may be there unseen."
    ]
    share = median(error.seeds_share or 0.0 for error in errors)
    if share > 0.5:
        lines.append(
            f"Most of what is uncertain, {100 * share:.0f} % of the variance, is which "
            f"{results.plan.counted} were labelled: more --seeds narrow the intervals more than more "
            "patients."
        )
    if len(errors) > 1:
        lines.append(
            f"Adjusted p-values take all {len(errors)} comparisons at the same labels together (Holm); only "
            "where one is below .05 is an arm said to help or to hurt."
        )
    return lines


def _asked(results: Results) -> list[str]:
    """What must be known of labels that were asked for."""
    asking = [select for select in results.plan.select if asks(select)]
    if not asking:
        return []
    return [
        f"In the order {' and '.join(asking)} each arm asks for labels of its own, by its features before "
        "fine-tuning. Classes fall as they fall: its probabilities are of classes as frequent as among these "
        f"labels. The {COLOR.name} has as many in the order {results.plan.drawn}."
    ]


def _steps(results: Results) -> int | None:
    """Optimizer steps of one fine-tuning of the baseline, all epochs; None for heads on frozen features."""
    plan = results.plan
    if HEADS[plan.head].frozen:
        return None
    # `trained_on` counts training and validation patches together, hence the share.
    settings = plan.settings("auto")
    patches = results.full.trained_on * (1 - settings.held_out)
    return settings.epochs_of(round(patches)) * math.ceil(patches / plan.batch_size)


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
    reach, points = results.reach[name], f"{100 * results.margin:g} points"
    lines = []
    if reach.smallest is not None:
        p = _both(reach.p_values[reach.smallest], reach.adjusted[reach.smallest])
        lines.append(
            f"{name} reaches the mark with {percent(reach.smallest)} of the labels: "
            f"{_with_mark(results, name, reach.smallest)}; against being {points} or more below it {p}."
        )
    if (fraction := reach.failed) is not None:
        subject = "With" if lines else f"{name} is not shown to reach the mark even with"
        verdict = " that is not shown" if lines else " of the labels"
        lines.append(
            f"{subject} {percent(fraction)}{verdict}: {_with_mark(results, name, fraction)}"
            f"{_needed(results, reach, results.with_full[name, fraction])}."
        )
    return " ".join(lines)


def _needed(results: Results, reach: Reach, comparison: Comparison) -> str:
    """What would show that an arm reaches the mark where `comparison` failed to."""
    if comparison.high is None or comparison.error is None:
        return ""
    if comparison.high < -results.margin:
        return f"; it is more than {100 * results.margin:g} points below"
    if reach.needed is None:
        return "; no number of patients would show it with so few label seeds"
    # Of the variance a share that more patients leave as it is.
    fewer = (comparison.error.seeds_share or 0) > _NOTABLE_SHARE
    seeds = ", fewer with more label seeds," if fewer else ""
    return f"; about {reach.needed:,} patients like these{seeds} would show it, were the two alike"


def _with_mark(results: Results, name: str, fraction: Amount) -> str:
    comparison = results.with_full[name, fraction]
    difference = (
        f"{_accuracy(results.arms[name, fraction])}, a difference of {_points(comparison.difference)}"
    )
    if comparison.low is None or comparison.high is None:
        return f"{difference} ({comparison.reason})"
    return f"{difference} (95 % interval {_bounds(comparison.low, comparison.high, sign='+')})"


def _same(comparisons: Mapping[tuple[str, Amount], Comparison], name: str, against: str) -> str:
    said: dict[str, list[str]] = {"helps": [], "HURTS": [], _UNCLEAR: [], "cannot be compared": []}
    for fraction in sorted(amount for row, amount in comparisons if row == name):
        comparison = comparisons[name, fraction]
        p, adjusted, difference = comparison.p_value, comparison.adjusted_p, comparison.difference
        if p is None or adjusted is None:
            verdict, about = "cannot be compared", comparison.reason
        else:
            verdict = _UNCLEAR if adjusted >= _LEVEL else "helps" if difference > 0 else "HURTS"
            about = f"{as_p(p)}, adjusted {as_p(adjusted)}"
        said[verdict].append(f"{percent(fraction)} ({_points(difference)}; {about})")
    parts = [f"{verdict} at {', '.join(places)}" for verdict, places in said.items() if places]
    return f"Against {against} {name} {'; '.join(parts)}."


def _both(p: float | None, adjusted: float | None) -> str:
    """A p-value and the one adjusted for the number of comparisons, where that is another."""
    if p is None or adjusted is None:
        return "untested"
    return as_p(p) if p == adjusted else f"{as_p(p)}, adjusted {as_p(adjusted)}"


def _bounds(low: float, high: float, *, sign: str = "") -> str:
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _accuracy(arm_result: ArmResult) -> str:
    value = arm_result.mean["accuracy"]
    return "undefined" if value is None else f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"
