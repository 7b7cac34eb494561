"""The page of `classify`: what must be known first, figures with intervals, and the mistakes to look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.pictures import small_jpeg
from wsitool.evaluation.metrics import METRICS
from wsitool.pages.facts import add_settings, as_text, read_object
from wsitool.pages.material import Inputs
from wsitool.pages.model_card import classifier_card
from wsitool.pages.registry import Folder
from wsitool.predict.verdict import as_probability
from wsitool.report.charts import confusion_chart, curves_chart, reliability_chart
from wsitool.report.curves import Curve, Panel
from wsitool.report.page import Card, Page
from wsitool.report.reliability import reliability
from wsitool.store.reader import Reader

__all__ = ["sections"]

_SHOWN = 12  # patches of a kind
_OF_A_CLASS = 4
_OPENED = 24  # stores
_COUNTED = {"slide": "slides", "patient": "patients"}  # what had labels, where not patches
_PART = {"folds": "fold", "test": "test", "validation": "validation"}
_ON = {
    "test": "test {}",
    "folds": "{}, each judged by a fold that had not seen its group",
    "validation": "validation {}, by which the classifier was chosen: the figures are optimistic",
}


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A patch that was judged: `p` (K,) is the probability of each class."""

    slide: str
    row: int
    label: str
    predicted: str
    p: tuple[float, ...]

    @property
    def sure(self) -> float:
        return max(self.p)


def sections(page: Page, folder: Folder) -> None:
    """From metrics.json, predictions.csv, metrics.csv, run.json; patches from the stores of the commands."""
    metrics, run = read_object(folder.path / "metrics.json"), read_object(folder.path / "run.json")
    on = str(metrics.get("judged_on"))
    figures: dict[str, Any] = metrics.get(on) or {}
    classes = [str(name) for name in metrics.get("classes") or ()]
    counted = _COUNTED.get(str(metrics.get("level")), "patches")
    page.text(
        f"{', '.join(classes)}: judged on {figures.get(counted, 0):,} {_ON.get(on, '{}').format(counted)}."
    )
    page.note("\n\n".join(map(str, metrics.get("said_first") or ())))
    if figures:
        _figures(page, metrics, figures)
    judged = _read(folder.path / "predictions.csv", _PART.get(on, on))
    _pictures(page, figures, classes, judged)
    _curves(page, folder.path / "metrics.csv", counted)
    _mistakes(page, folder, judged, classes, counted)
    page.section("Data")
    manifest = read_object(folder.path / "manifest.json")
    for name in ("train", "validation", "test"):
        part = manifest.get(name) or {}
        if part:
            page.text(
                f"{name}: {part.get(counted, 0):,} {counted} of {len(part.get('groups', ())):,} groups; "
                f"{as_text(part.get('per_class'))}."
            )
    classifier_card(page, metrics, run, manifest, counted)
    page.section("Settings and versions")
    steps = (run.get("encoder") or {}).get("lineage") or []
    page.text(
        f"Lineage of the encoder: {' -> '.join(as_text(step.get('name')) for step in steps) or 'not known'}."
    )
    add_settings(page, run, without=frozenset({"encoder", "data", "said_first", "c_search"}))


def _figures(page: Page, metrics: dict[str, Any], figures: dict[str, Any]) -> None:
    intervals, why = figures.get("intervals") or {}, figures.get("no_interval") or {}
    rows = []
    for name in METRICS:
        value, interval = figures.get(name), intervals.get(name)
        told = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else as_text(why.get(name)) or "-"
        rows.append((name.replace("_", " "), "undefined" if value is None else f"{value:.3f}", told))
    page.section("Figures").table(
        ("figure", "value", "95 % interval"),
        rows,
        f"Intervals are over {figures.get('interval_groups', 0)} groups.",
    )
    beside = metrics.get("baselines") or {}
    if beside:
        majority, sentence = beside.get("majority") or {}, as_text(beside.get("sentence"))
        said = "" if sentence in (metrics.get("said_first") or ()) else f" {sentence}"
        page.text(
            f"Always '{majority.get('class')}' would have an accuracy of "
            f"{majority.get('accuracy', 0):.3f}.{said}"
        )


def _pictures(page: Page, figures: dict[str, Any], classes: Sequence[str], judged: Sequence[_Judged]) -> None:
    counts = figures.get("confusion")
    if not counts:
        return
    page.section("Confusion and calibration")
    page.chart(confusion_chart(counts, classes), "Rows are the true classes.")
    known = [one for one in judged if one.label in classes and len(one.p) == len(classes)]
    if known:
        probabilities = np.array([one.p for one in known])
        labels = np.array([classes.index(one.label) for one in known])
        page.chart(
            reliability_chart(*(column.tolist() for column in reliability(probabilities, labels))),
            "Below the dotted line probabilities are too sure. A point is as large as the number of patches. "
            "Before scaling by temperature.",
        )


def _curves(page: Page, path: Path, counted: str) -> None:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    if not rows:
        return

    def curve(column: str) -> Curve:
        return Curve(
            label=column.partition("_")[0],
            x=[_float(r.get("epoch")) for r in rows],
            y=[_float(r.get(column)) for r in rows],
        )

    fine_tuned = counted == "patches"
    page.section("Fine-tuning" if fine_tuned else "Training")
    title = f"loss per {'patch' if fine_tuned else 'slide'}"
    losses = Panel(title=title, curves=(curve("train_loss"), curve("validation_loss")))
    page.chart(curves_chart(losses, x_label="epoch"))
    page.chart(
        curves_chart(
            Panel(title="validation accuracy", curves=(curve("validation_accuracy"),)), x_label="epoch"
        )
    )


def _mistakes(
    page: Page, folder: Folder, judged: Sequence[_Judged], classes: Sequence[str], counted: str
) -> None:
    """Patches of `_mistakes_of`, with their pictures where their stores can be found."""
    wrong = sum(one.label != one.predicted for one in judged)
    page.section("Mistakes", f"{wrong:,} of {len(judged):,} judged {counted} were called another class.")
    kinds = _mistakes_of(judged, classes)
    pictures, known = _Patches(folder), 0
    for heading, patches in kinds.items():
        if not patches:
            continue
        page.text(f"{heading}:")
        drawn = [(one, pictures.of(one)) for one in patches]
        cards = [Card(image=data, lines=_lines(one)) for one, data in drawn if data is not None]
        known += len(cards)
        page.cards(cards)
        rest = [one for one, data in drawn if data is None]
        if rest:
            page.table(
                ("slide", "row" if counted == "patches" else "patches", "is", "called", "probability"),
                [(one.slide, one.row, one.label, one.predicted, as_probability(one.sure)) for one in rest],
            )
    pictures.close()
    if wrong and not known and counted == "patches":
        page.text("Their pictures are not shown: the stores are not where this page was made.")


def _mistakes_of(judged: Sequence[_Judged], classes: Sequence[str]) -> dict[str, list[_Judged]]:
    """Most confidently wrong, least sure, and wrong of each class, the surest first."""
    wrong = sorted((one for one in judged if one.label != one.predicted), key=lambda one: -one.sure)
    of_classes = {
        f"Of {name}, called something else": [one for one in wrong if one.label == name][:_OF_A_CLASS]
        for name in classes
    }
    least = sorted(judged, key=lambda one: one.sure)[:_SHOWN]
    return {"Most confidently wrong": wrong[:_SHOWN], "Least sure": least, **of_classes}


def _lines(one: _Judged) -> tuple[str, ...]:
    return (
        f"is {one.label}",
        f"called {one.predicted}, {as_probability(one.sure)}",
        f"{one.slide} #{one.row}",
    )


class _Patches:
    """Patches of the stores that the run's manifest names, by slide; each store is opened once."""

    def __init__(self, folder: Folder) -> None:
        self._inputs = Inputs(folder.commands)
        manifest = read_object(folder.path / "manifest.json")
        parts = [part for part in manifest.values() if isinstance(part, Mapping)]
        self._hashes = {
            store["name"]: store["content_hash"] for part in parts for store in part.get("stores", ())
        }
        self._opened: dict[str, Reader | None] = {}

    def of(self, one: _Judged) -> bytes | None:
        """The patch as JPEG; None where its store is not there, is another one now, or is one too many."""
        if one.slide not in self._opened:
            if len(self._opened) >= _OPENED or one.slide not in self._hashes:
                return None
            self._opened[one.slide] = self._inputs.store(one.slide, self._hashes[one.slide])
        store = self._opened[one.slide]
        if store is None or not 0 <= one.row < len(store):
            return None
        return small_jpeg(store.read([one.row])[0])

    def close(self) -> None:
        for store in self._opened.values():
            if store is not None:
                store.close()


def _read(path: Path, part: str) -> list[_Judged]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            place = {name: index for index, name in enumerate(head)}
            # A slide has no row: how many patches it has stands there.
            row_column = "row" if "row" in place else "patches"
            wanted = [place[name] for name in ("slide", row_column, "label", "predicted")]
            first = next(index for index, name in enumerate(head) if name.startswith("p_"))
            return [
                _Judged(
                    slide=row[wanted[0]],
                    row=int(row[wanted[1]]),
                    label=row[wanted[2]],
                    predicted=row[wanted[3]],
                    p=tuple(map(float, row[first:])),
                )
                for row in rows
                # "fold 3" is of the folds.
                if row[place["part"]].partition(" ")[0] == part
            ]
    except (OSError, KeyError, StopIteration, ValueError, IndexError, csv.Error):
        return []


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
