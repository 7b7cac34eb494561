"""The page of `pretrain`: how the loss fell, whether the features collapsed, and what it was made of."""

from __future__ import annotations

import math
from typing import Any

from wsitool.pages.facts import add_settings, as_text, read_object
from wsitool.pages.model_card import encoder_card
from wsitool.pages.registry import Folder
from wsitool.report.charts import curves_chart
from wsitool.report.page import Page
from wsitool.training.curves import curve_panels
from wsitool.training.metrics_file import Row, read_metrics

__all__ = ["sections"]

_SHOWN_APART = frozenset(
    {"card", "stores", "groups", "warnings", "history", "snapshots", "skipped", "result", "lineage"}
)
_COLLAPSE = {
    "feature_std": "Spread of the features: near 1 if they point everywhere, below 0.01 they collapsed.",
    "rank_me": "Effective rank of the features (RankMe): how many directions they use.",
}


def sections(page: Page, folder: Folder) -> None:
    """From run.json and metrics.csv."""
    run = read_object(folder.path / "run.json")
    rows, problem = read_metrics(folder.path / "metrics.csv")
    page.text(
        f"{run.get('method', 'A method')} on {_number(run.get('patches'))} patches, "
        f"{_number(run.get('steps'))} steps: {run.get('status', 'of unknown state')}. "
        f"Lineage: {run.get('lineage', 'not known')}."
    )
    said = [*map(str, run.get("warnings") or ()), *([problem] if problem else [])]
    if said:
        page.note("\n\n".join(said))
    _curves(page, rows)
    _collapse(page, rows)
    _snapshots(page, run)
    encoder_card(page, run)
    page.section("Settings and versions")
    add_settings(page, run.get("result") or {})
    add_settings(page, run, without=_SHOWN_APART)
    groups, stores = run.get("groups") or [], run.get("stores") or []
    page.section("What it has seen")
    what = "slides, streamed without stores," if run.get("streamed") else "stores"
    page.text(f"{len(stores):,} {what} of {len(groups):,} groups (patients): {as_text(groups)}.")
    steps = (run.get("card") or {}).get("lineage") or []
    if steps:
        _lineage(page, steps)


def _curves(page: Page, rows: list[Row] | list[dict[str, float | int]]) -> None:
    page.section("Curves")
    if not rows:
        page.text("There are no steps in metrics.csv.")
        return
    for panel in curve_panels(rows):
        page.chart(curves_chart(panel, x_label="step"))


def _collapse(page: Page, rows: list[dict[str, float | int]]) -> None:
    last = {name: value for row in rows for name, value in row.items() if name in _COLLAPSE}
    if last:
        page.section("Did the features collapse?")
        page.table(
            ("figure", "at the end", "what it means"),
            [(name, f"{last[name]:.3g}", text) for name, text in _COLLAPSE.items() if name in last],
        )


def _snapshots(page: Page, run: dict[str, Any]) -> None:
    snapshots = run.get("snapshots")
    if snapshots:
        page.section("Snapshots")
        add_settings(page, snapshots if isinstance(snapshots, dict) else {"kept": snapshots})


def _lineage(page: Page, steps: list[dict[str, Any]]) -> None:
    rows = [
        (
            as_text(step.get("kind")),
            as_text(step.get("name")),
            as_text(step.get("method")) or "-",
            as_text(step.get("epochs")) or "-",
            as_text(step.get("patches")) or "-",
        )
        for step in steps
    ]
    page.table(("step", "from", "method", "epochs", "patches"), rows, "Lineage, oldest first.")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and math.isfinite(value) else "?"
