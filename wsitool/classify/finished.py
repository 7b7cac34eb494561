"""A finished classification in the output folder: whether it is the one asked for, and what it came to."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.json_files import read_json
from wsitool.base.progress import Reporter
from wsitool.errors import UsageError
from wsitool.evaluation.summary import interval_figures

__all__ = ["finished_files", "with_intervals"]

# What may differ between a run and its repetition, or says with what luck it ran.
_FREE = ("wsitool_version", "settings.device", "encoder.init")
# What runs of before there was such an option did.
_BEFORE = {
    "settings.precision": "32",
    "settings.lora_rank": 8,
    "settings.decode": "cpu",
    "settings.balance": "subset",
    "select": "random",
    "copy_encoder": True,
}
_NAMES = {"data": "the stores or labels", "encoder": "the encoder"}


def finished_files(out: Path, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """metrics.json and manifest.json of a finished run in `out` with this `record`; None if there is none.

    UsageError where it is a run of other options or data, of another command, or damaged.
    """
    if not (out / "run.json").exists():
        return None
    before, now = _read(out / "run.json"), json.loads(json.dumps(record))  # where tuples are lists
    if before.get("command") != record["command"]:
        raise UsageError(f"'{out}' holds a run of {before.get('command')}: choose another --out.")
    changed = list(dict.fromkeys(_changes(before, now)))
    if changed:
        raise UsageError(
            f"'{out}' holds a finished run with other choices ({'; '.join(changed)}): repeat the command as "
            "it was, choose another --out, or replace it with --overwrite."
        )
    metrics, manifest = _read(out / "metrics.json"), _read(out / "manifest.json")
    for path, values, names in (
        (out / "metrics.json", metrics, ("classes", "said_first", metrics.get("judged_on"))),
        (out / "manifest.json", manifest, ("train", "validation")),
    ):
        if missing := [name for name in names if name not in values]:
            raise _damaged(path, f"it lacks {missing[0]}")
    return metrics, manifest


def with_intervals(out: Path, metrics: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """The metrics with intervals as they are made now, of the run's own predictions; its files stay.

    A run of an earlier build has intervals of resampled patients, which are too narrow for few of them; where
    its predictions cannot be read they are kept, and told.
    """
    judged_on = metrics["judged_on"]
    scores = metrics[judged_on]
    if "no_interval" in scores:
        return dict(metrics)
    try:
        figures = _from_predictions(out / "predictions.csv", metrics["classes"], judged_on)
    except (OSError, ValueError, KeyError, IndexError, csv.Error):
        reporter.warn(
            f"The intervals of '{out}' are of an earlier build and too narrow for few patients; they could "
            "not be made anew, as its predictions.csv cannot be read. Repeat the run with --overwrite."
        )
        return dict(metrics)
    reporter.say("It is of an earlier build: its intervals are made anew from its predictions.csv.")
    return {**metrics, judged_on: {**scores, **figures}}


def _from_predictions(path: Path, classes: list[str], judged_on: str) -> dict[str, Any]:
    """Intervals of the patches of a part, or of all folds; ValueError and the like for another file."""
    # A class that a spreadsheet would take for a formula was written with a mark.
    index = {text: number for number, name in enumerate(classes) for text in (name, f"'{name}")}
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        columns = next(lines, [])
        part, group, label = (columns.index(name) for name in ("part", "group", "label"))
        is_fold = judged_on == "folds"
        rows = [
            line for line in lines if (line[part].startswith("fold ") if is_fold else line[part] == judged_on)
        ]
    probabilities = np.array([[float(cell) for cell in line[-len(classes) :]] for line in rows])
    labels = np.array([index[line[label]] for line in rows])
    groups = np.unique([line[group] for line in rows], return_inverse=True)[1]
    return interval_figures(probabilities, labels, groups)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in now.items():
        key = prefix + name
        earlier = before.get(name, _BEFORE.get(key))
        if key in _FREE or earlier == value:
            continue
        part = key.partition(".")[0]
        if isinstance(value, dict) and isinstance(earlier, dict):
            yield from _changes(earlier, value, f"{key}.")
        elif part in _NAMES:
            yield f"{_NAMES[part]} changed"
        else:
            yield f"{name} was {earlier!r} and is {value!r}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(values, dict):
        raise _damaged(path, "it must hold names and values")
    return values


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(f"'{path}' is damaged ({reason}): start anew with --overwrite.")
