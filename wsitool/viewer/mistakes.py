"""What a run of `classify` got wrong, and what it was least sure of, from its predictions.csv."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from wsitool.base.tables import Row, read_table
from wsitool.viewer.library import Library, SlideEntry
from wsitool.viewer.predicted import JUDGED_COLUMNS, judged_rows, manifest_hashes

__all__ = ["mistakes"]

_SHOWN = 120
_BINS = 10


def mistakes(run: Path, library: Library) -> dict[str, Any]:
    """Counts by class and patient, and the patches most confidently wrong and least sure, at most 120 each.

    `run` is the folder; of its table the test patches count where there are any, else all. WsitoolError
    where it cannot be read.
    """
    table = read_table(run / "predictions.csv", needs=JUDGED_COLUMNS)
    classes = [header.removeprefix("p_") for name, header in table.headers.items() if name.startswith("p_")]
    judged = judged_rows(table)
    rows = [(row, _probability(row, row["predicted"])) for row in judged]
    wrong = sorted((item for item in rows if item[0]["label"] != item[0]["predicted"]), key=lambda i: -i[1])
    unsure = sorted(rows, key=lambda item: item[1])
    counts: dict[str, dict[str, int]] = {}
    for row, _ in rows:
        line = counts.setdefault(row["label"], {})
        line[row["predicted"]] = line.get(row["predicted"], 0) + 1
    groups: dict[str, list[int]] = {}
    for row, _ in rows:
        one = groups.setdefault(row["group"], [0, 0])
        one[0] += 1
        one[1] += row["label"] != row["predicted"]
    bins: dict[int, list[float]] = {}
    for row, p in rows:
        one_bin = bins.setdefault(min(int(p * _BINS), _BINS - 1), [0, 0.0, 0])
        one_bin[0] += 1
        one_bin[1] += p
        one_bin[2] += row["label"] == row["predicted"]
    find = _finder(run, library)
    return {
        "part": judged[0]["part"] if judged else "",
        "classes": classes,
        "confusion": counts,
        "groups": [{"name": name, "patches": all_, "wrong": bad} for name, (all_, bad) in groups.items()],
        # Mean probability of the class that was called, and how often it was right, in ten equal bins.
        "reliability": [
            {"patches": n, "probability": total / n, "right": right / n}
            for n, total, right in (bins[number] for number in sorted(bins))
        ],
        "patches": len(rows),
        "wrong": len(wrong),
        "most_confident": [_patch(row, p, find) for row, p in wrong[:_SHOWN]],
        "least_sure": [_patch(row, p, find) for row, p in unsure[:_SHOWN]],
    }


def _probability(row: Row, name: str) -> float:
    try:
        return float(row[f"p_{name}".lower()])
    except ValueError:
        return 0.0


def _finder(run: Path, library: Library) -> Callable[[str], SlideEntry | None]:
    """Slides by name, where their stores are still those that the run's manifest.json names."""
    hashes = manifest_hashes(run)
    return cache(lambda name: library.slide_of_store(name, hashes.get(name, "")))


def _patch(row: Row, probability: float, find: Callable[[str], SlideEntry | None]) -> dict[str, Any]:
    slide = find(row["slide"])
    return {
        "slide": None if slide is None else slide.id,
        "name": row["slide"],
        "group": row["group"],
        "row": int(row["row"]),
        "label": row["label"],
        "predicted": row["predicted"],
        "probability": probability,
    }
