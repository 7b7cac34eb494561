"""The paper's table 2 - loss and accuracy per arm and fraction - as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io

from wsitool.evaluation.amounts import PerClass, percent
from wsitool.evaluation.intervals import TOO_FEW
from wsitool.evaluation.metrics import METRICS
from wsitool.experiment.narrative import said_first
from wsitool.experiment.plan import COLOR
from wsitool.experiment.results import ArmResult, Results

__all__ = ["headers", "rows", "to_csv", "to_latex", "to_markdown"]


def headers(results: Results) -> list[str]:
    """Arm, then one column per fraction with how many labels it stands for."""
    columns = ["arm"]
    for fraction in sorted(results.plan.amounts):
        patches = results.arms[results.baseline, fraction].trained_on
        columns.append(f"{percent(fraction)} ({patches} {results.plan.counted})")
    return columns


def rows(results: Results) -> list[list[str]]:
    """Accuracy with its 95 % interval and the loss of each arm, and last of what stands beside them."""
    amounts = sorted(results.plan.amounts)
    arms = [
        [row.name, *(_cell(results.arms[row.name, fraction]) for fraction in amounts)]
        for row in results.plan.rows
    ]
    color = [[COLOR.name, *(_cell(results.color[fraction]) for fraction in amounts)]] if results.color else []
    guessing = results.full.guessing
    share = f"{100 * guessing.majority_share:.1f}"
    return [*arms, *color, [f"always '{guessing.majority_class}'", *(share for _ in amounts)]]


def to_markdown(results: Results) -> str:
    """A Markdown table, below what must be said first."""
    head = headers(results)
    lines = [head, ["---"] * len(head), *rows(results)]
    before = f"{first}\n\n" if (first := said_first(results)) else ""
    return before + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def to_latex(results: Results) -> str:
    """A booktabs table, which says so: LaTeX would only name an undefined command."""
    head = headers(results)
    body = [head, *rows(results)]
    escaped = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in body]
    inside = [r"\toprule", escaped[0], r"\midrule", *escaped[1:], r"\bottomrule"]
    columns = "l" + "r" * (len(head) - 1)
    # As a comment of LaTeX: the table can be included as it is.
    before = [f"% {first}"] if (first := said_first(results)) else []
    before.append(r"% needs \usepackage{booktabs}")
    return "\n".join([*before, rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"]) + "\n"


def to_csv(results: Results) -> str:
    """One line per arm, fraction and metric: mean, deviation over seeds, interval or why there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    figures = ("mean", "sd_over_seeds", "low", "high", "no_interval")
    writer.writerow(("arm", "fraction", f"labelled_{results.plan.counted}", "metric", *figures))
    for arm_result in (*results.arms.values(), *results.color.values()):
        fraction = arm_result.fraction
        amount = percent(fraction) if isinstance(fraction, PerClass) else fraction
        for metric in METRICS:
            interval = arm_result.intervals[metric]
            bounds = (interval.low, interval.high) if interval else (None, None)
            values = (arm_result.mean[metric], arm_result.spread[metric], *bounds)
            cells = ["" if value is None else f"{value:.6f}" for value in values]
            cells.append(arm_result.jackknife.reason(metric))
            writer.writerow((arm_result.arm, amount, arm_result.trained_on, metric, *cells))
    return buffer.getvalue()


def _cell(arm_result: ArmResult) -> str:
    accuracy, interval, loss = (
        arm_result.mean["accuracy"],
        arm_result.intervals["accuracy"],
        arm_result.mean["loss"],
    )
    if accuracy is None or loss is None:
        return "-"
    bounds = f"{100 * interval.low:.1f}, {100 * interval.high:.1f}" if interval else TOO_FEW
    return f"{100 * accuracy:.1f} [{bounds}] / {loss:.3f}"


def _escape(text: str) -> str:
    for plain in "%&_#$":
        text = text.replace(plain, "\\" + plain)
    return text
