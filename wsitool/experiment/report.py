"""The files an experiment ends with: table 2, results.json, pictures, one HTML page that says it in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsitool.base.files import replace_file, write_json
from wsitool.evaluation.amounts import PerClass, file_part, percent
from wsitool.evaluation.intervals import TOO_FEW
from wsitool.evaluation.metrics import CURVES, METRICS
from wsitool.experiment import table
from wsitool.experiment.narrative import caveats, choices, said_first, verdicts
from wsitool.experiment.plan import COLOR
from wsitool.experiment.results import ArmResult, Results, as_json
from wsitool.experiment.slide_plan import SlidePlan
from wsitool.report.confusion import draw_confusion
from wsitool.report.efficiency import EfficiencyCurve, draw_efficiency
from wsitool.report.page import Page
from wsitool.report.reliability import draw_reliability

__all__ = ["write_report"]


def write_report(
    results: Results, out: Path, *, command: str = "", notes: Sequence[str] = (), page: bool = True
) -> Path:
    """Write everything into `out` and return the page's path; `notes` are findings such as near-duplicates.

    Without `page` none is written.
    table2.md, .csv and .tex, results.json, figures/*.png and report.html, each complete or as it was.
    """
    for name, text in (
        ("table2.md", table.to_markdown(results)),
        ("table2.csv", table.to_csv(results)),
        ("table2.tex", table.to_latex(results)),
    ):
        replace_file(out / name, text.encode())
    said = {
        "said_first": [line] if (line := said_first(results)) else [],
        "verdicts": verdicts(results),
        "choices": choices(results),
        "caveats": caveats(results),
        "notes": list(notes),
    }
    # What is said goes into the JSON as well: programs that read it must meet the caveats, too.
    write_json(out / "results.json", {**as_json(results), **said})
    _draw(results, out / "figures")
    path = out / "report.html"
    return _page(results, out, said, command).write(path) if page else path


def _draw(results: Results, folder: Path) -> None:
    # Numbers of each class have no place on an axis of shares.
    fractions = sorted(results.plan.fractions)
    rows = results.plan.rows
    named = {row.name: [results.arms[row.name, fraction] for fraction in fractions] for row in rows}
    mark = {} if results.no_mark else results.full.mean
    if results.color:
        named[COLOR.name] = [results.color[fraction] for fraction in fractions]
    for metric, title in CURVES.items():
        curves = [_curve(arm, arm_results, metric) for arm, arm_results in named.items()]
        drawn = [curve for curve in curves if curve is not None]
        draw_efficiency(folder / f"{metric}.png", drawn, metric=title, mark=mark.get(metric))
    parts = {row.name: row.file_part for row in rows}
    for (arm, fraction), arm_result in results.arms.items():
        name = f"{parts[arm]}-{file_part(fraction)}"
        title = f"{arm}, labels: {percent(fraction)}"
        draw_confusion(folder / f"confusion-{name}.png", arm_result.confusion, results.classes, title=title)
        # One confusion and one calibration over all seeds: the labels once for each run.
        labels = np.tile(results.labels, len(arm_result.runs))
        draw_reliability(
            folder / f"calibration-{name}.png", np.concatenate(arm_result.runs), labels, title=title
        )


def _curve(arm: str, arm_results: Sequence[ArmResult], metric: str) -> EfficiencyCurve | None:
    values = [row.mean[metric] for row in arm_results]
    # A curve with a hole would be drawn as if it had none.
    if any(value is None for value in values):
        return None
    bands = [row.intervals[metric] for row in arm_results]
    stated = [band for band in bands if band is not None]
    # A band over some points only would seem to end in certainty.
    has_all = len(stated) == len(bands)
    return EfficiencyCurve(
        name=arm,
        fractions=[row.fraction for row in arm_results if not isinstance(row.fraction, PerClass)],
        values=[value for value in values if value is not None],
        low=[band.low for band in stated] if has_all else None,
        high=[band.high for band in stated] if has_all else None,
    )


def _page(results: Results, out: Path, said: dict[str, list[str]], command: str) -> Page:
    plan = results.plan
    orders = f", labelled in the orders {', '.join(plan.select)}" if len(plan.select) > 1 else ""
    heads = f" with heads {', '.join(plan.heads)}" if plan.of_slides else ""
    page = Page(
        "How many labels are needed?",
        f"{', '.join(plan.methods)}{heads}{orders}: compared at "
        f"{_number(len(plan.amounts), 'label fraction')} with {plan.seeds_text} each, and judged on "
        f"{len(results.labels):,} {plan.counted} of "
        f"{len(results.groups)} groups (patients) that none of them was trained on.",
    )
    # Above everything else, as no figure may be read without it.
    if said["said_first"]:
        page.note("\n\n".join(said["said_first"]))
    # In the verdicts again for results.json; not twice on the page.
    words = [line for line in said["verdicts"] if line not in said["said_first"]]
    if words:
        page.section("In words", "\n\n".join(words))
    page.note("\n\n".join(said["caveats"] + said["notes"]))
    one = plan.one
    page.section("Table 2", f"{one.capitalize()} accuracy in percent [95 % interval] / loss per {one}.")
    page.table(table.headers(results), table.rows(results))
    mark = f"{results.baseline} with {percent(results.full.fraction)} of the labels"
    line = "there is no mark to draw" if results.no_mark else f"the dotted line is {mark}"
    page.section("Label efficiency", f"Bands are 95 % intervals over groups; {line}.")
    for metric, title in CURVES.items():
        page.image(out / "figures" / f"{metric}.png", title)
    page.section("All figures", "Means over seeds.")
    page.table(*_all_figures(results))
    if said["choices"]:
        page.section("Choice of the pretraining lr", "\n\n".join(said["choices"]))
        page.table(*_rates(results))
    _pictures(page, results, out / "figures")
    page.section("Settings").table(("setting", "value"), _settings(results))
    if plan.c == "auto":
        page.table(*_penalties(results))
    if command:
        page.section("To repeat it").code(command)
    return page


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _settings(results: Results) -> list[tuple[str, str]]:
    """What was chosen, without what was left empty."""
    rows = []
    for name, value in results.plan.to_dict().items():
        # What says something of slides only.
        if value not in (None, ()) and (results.plan.of_slides or name not in SlidePlan.names()):
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((name.replace("_", " "), text))
    return rows


def _penalties(results: Results) -> tuple[tuple[str, ...], list[list[str]], str]:
    rows = [
        [
            arm_result.arm,
            percent(arm_result.fraction),
            ", ".join(f"{c}: {n}" for c, n in arm_result.penalties.items()),
        ]
        for arm_result in results.arms.values()
    ]
    text = "Penalty C chosen inside each training subset, and in how many cells."
    return ("arm", "labels", "C: cells"), rows, text


def _rates(results: Results) -> tuple[tuple[str, ...], list[list[str]], str]:
    lrs = results.plan.pretrain_lrs
    rows = []
    for arm_result in results.arms.values():
        if arm_result.rates:
            taken = [str(sum(rate["lr"] == lr for rate in arm_result.rates)) for lr in lrs]
            rows.append([arm_result.arm, percent(arm_result.fraction), *taken])
    return ("arm", "labels", *(f"lr {lr:g}" for lr in lrs)), rows, "In how many cells each lr was taken."


def _all_figures(results: Results) -> tuple[tuple[str, ...], list[list[str]]]:
    rows = []
    for arm_result in (*results.arms.values(), *results.color.values()):
        figures = [arm_result.mean[name] for name in METRICS]
        # without patches held out of training there is nothing to fit a temperature on
        scaled = results.plan.validates
        extra = [
            arm_result.calibrated_ece if scaled else None,
            arm_result.image_accuracy,
            arm_result.fold_auroc,
        ]
        cells = ["-" if value is None else f"{value:.3f}" for value in figures + extra]
        interval = arm_result.intervals["ece"]
        cells.append(TOO_FEW if interval is None else f"{interval.value:.3f}")
        rows.append([arm_result.arm, percent(arm_result.fraction), *cells])
    titles = [name.replace("_", " ") for name in METRICS]
    extra_titles = ("ece after scaling", "accuracy per image", "auroc per fold", "ece less its bias")
    return ("arm", "labels", *titles, *extra_titles), rows


def _pictures(page: Page, results: Results, folder: Path) -> None:
    """Confusion and calibration at the largest fraction and a small one, as the smallest of many is noise."""
    fractions = sorted(results.plan.amounts)
    # The second smallest where there are three or more.
    shown = dict.fromkeys((fractions[max(0, min(1, len(fractions) - 2))], fractions[-1]))
    others = f" The other fractions are in the folder {folder.name}." if len(fractions) > len(shown) else ""
    for kind, text in (
        ("confusion", "Counts over all seeds; shares are of the true class."),
        ("calibration", "Before temperature scaling; points on the diagonal mean what they say."),
    ):
        page.section(kind.capitalize(), text + others)
        for fraction in shown:
            for row in results.plan.rows:
                page.image(folder / f"{kind}-{row.file_part}-{file_part(fraction)}.png")
