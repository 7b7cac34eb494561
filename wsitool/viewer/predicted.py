"""What was predicted of the rows of a store, from the tables of `predict` and of `classify`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from wsitool.base.json_files import read_json
from wsitool.base.tables import Row, Table, read_table
from wsitool.errors import WsitoolError
from wsitool.store.opening import open_store
from wsitool.viewer.library import Library, SlideEntry

__all__ = ["JUDGED_COLUMNS", "judged_rows", "manifest_hashes", "predicted_classes"]

JUDGED_COLUMNS = ("part", "slide", "group", "row", "label", "predicted")


def predicted_classes(slide: SlideEntry | None, rows: int, library: Library) -> list[str]:
    """The class predicted of each of the store's `rows`; "" where nothing was.

    The first table that has any of the patches counts. What cannot be read counts as not there.
    """
    classes = [""] * rows
    if slide is None or slide.store is None:
        return classes
    with suppress(WsitoolError), open_store(slide.store) as store:
        row_at = {(x, y): row for row, (x, y) in enumerate(store.coords.tolist())}
        runs = [group.path for group in library.groups.values() if group.kind == "run"]
        tables = chain(
            (_of_predict(table, row_at) for _, table in library.predictions_of(slide)),
            (_of_run(run, store.meta.name, store.content_hash) for run in runs),
        )
        for table in tables:
            with suppress(OSError, ValueError, WsitoolError):
                found = {row: name for row, name in table if 0 <= row < rows}
                if found:
                    return [found.get(row, "") for row in range(rows)]
    return classes


def manifest_hashes(run: Path) -> dict[str, str]:
    """Store name -> content hash, of all in the manifest.json of a run of `classify`; {} without one."""
    try:
        manifest = read_json(run / "manifest.json")
    except (OSError, ValueError):
        return {}
    parts = (
        [part for part in manifest.values() if isinstance(part, dict)] if isinstance(manifest, dict) else []
    )
    return {store["name"]: store["content_hash"] for part in parts for store in part.get("stores", ())}


def judged_rows(table: Table) -> list[Row]:
    """The rows of predictions.csv that count: of the test patches where there are any, else all.

    Validation patches have had a part in the choice of the model.
    """
    usable = [row for row in table.rows if not row.problem]
    return [row for row in usable if row["part"] == "test"] or usable


def _of_predict(table: Path, row_at: dict[tuple[int, int], int]) -> Iterator[tuple[int, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield row_at.get((int(line["x"]), int(line["y"])), -1), line["predicted"]


def _of_run(run: Path, name: str, content_hash: str) -> Iterator[tuple[int, str]]:
    if manifest_hashes(run).get(name) == content_hash:
        for line in judged_rows(read_table(run / "predictions.csv", needs=JUDGED_COLUMNS)):
            if line["slide"] == name:
                yield int(line["row"]), line["predicted"]
