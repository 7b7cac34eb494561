"""What a run of `classify` got wrong, and what it was least sure of, from its predictions.csv."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from wsitool.base.json_files import read_json
from wsitool.base.tables import Row, read_table
from wsitool.viewer.library import Library, SlideEntry

__all__ = ["mistakes"]

_SHOWN = 120
_COLUMNS = ("part", "slide", "group", "row", "label", "predicted")


def mistakes(run: Path, library: Library) -> dict[str, Any]:
    """Counts by class and patient, and the patches most confidently wrong and least sure, at most 120 each.

    `run` is the folder; of its table the test patches count where there are any, else all. WsitoolError
    where it cannot be read.
    """
    table = read_table(run / "predictions.csv", needs=_COLUMNS)
    classes = [header.removeprefix("p_") for name, header in table.headers.items() if name.startswith("p_")]
    usable = [row for row in table.rows if not row.problem]
    # Validation patches have had a part in the choice of the model.
    judged = [row for row in usable if row["part"] == "test"] or usable
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
    find = _finder(run, library)
    return {
        "part": judged[0]["part"] if judged else "",
        "classes": classes,
        "confusion": counts,
        "groups": [{"name": name, "patches": all_, "wrong": bad} for name, (all_, bad) in groups.items()],
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
    try:
        manifest = read_json(run / "manifest.json")
    except (OSError, ValueError):
        manifest = {}
    parts = (
        [part for part in manifest.values() if isinstance(part, dict)] if isinstance(manifest, dict) else []
    )
    hashes = {store["name"]: store["content_hash"] for part in parts for store in part.get("stores", ())}
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
