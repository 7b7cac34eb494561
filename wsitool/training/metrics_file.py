"""metrics.csv: one row per optimiser step, written as training goes, cut back exactly on resume."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsitool.base.files import replace_file
from wsitool.base.text_files import read_bytes
from wsitool.errors import TrainingError

__all__ = ["MetricsFile", "Row", "read_metrics"]

Row = Mapping[str, float | int]
_MOST_DIGITS = 16  # of a count; what has more is drawn as a float or not at all


class MetricsFile:
    """Appends rows; the first one decides the columns, later values of other names are left out.

    One process writes. Rows are text of the operating system at once, but not synced: a power cut may cost
    the last ones, which a resumed run computes again.
    """

    def __init__(self, path: Path, *, keep: int = 0, extra: Sequence[str] = ()) -> None:
        """Start the file, or go on after its rows of the first `keep` steps.

        `extra` are columns that not every row has, the first one least of all. `problem` says what of the
        file was damaged and is gone.
        """
        self._path = path
        earlier, self.problem = read_metrics(path) if keep else ([], "")
        rows = [row for row in earlier if row["step"] <= keep]
        self._columns: list[str] = []
        self._extra = list(extra)
        # At once: a process that is killed here must not have lost the rows it was to keep.
        replace_file(path, self._text(rows).encode())

    def append(self, rows: Sequence[Row]) -> None:
        """Write `rows` and hand them to the operating system."""
        if not rows:
            return
        with self._path.open("a", newline="") as file:
            file.write(self._text(rows))

    def _text(self, rows: Sequence[Row]) -> str:
        text = io.StringIO(newline="")
        if rows and not self._columns:
            self._columns = list(dict.fromkeys([*rows[0], *self._extra]))
            csv.writer(text).writerow(self._columns)
        # A metric that a method gives from the second row on only is left out: the header is written.
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writerows(rows)
        return text.getvalue()


def read_metrics(path: Path) -> tuple[list[dict[str, float | int]], str]:
    """The rows of a metrics file, absent values left out, and a sentence about its damaged rows, if any.

    A row that was being written when the process ended is no damage. TrainingError where it is no file.
    """
    if not path.exists():
        return [], ""
    text = read_bytes(path, what="metrics file", error=TrainingError).decode("utf-8", "replace")
    header, *lines = text.splitlines() or [""]
    if lines and not text.endswith(("\n", "\r")):
        lines.pop()
    columns = next(csv.reader([header]), [])
    if not {"step", "epoch"} <= set(columns):
        return [], f"'{path}' does not begin with a header of step and epoch: none of its rows are used."
    parsed = [_values(columns, line) for line in lines]
    rows = [values for values in parsed if values is not None]
    if len(rows) == len(parsed):
        return rows, ""
    lost = f"{len(parsed) - len(rows)} of {len(parsed)} rows of '{path}'"
    return rows, f"{lost} are damaged and left out, the first on line {parsed.index(None) + 2}."


def _values(columns: Sequence[str], line: str) -> dict[str, float | int] | None:
    """A row's numbers; None where something else is among them, or its step, epoch or loss is none."""
    cells = line.split(",")
    if len(cells) != len(columns):
        return None
    try:
        values = {name: _number(cell) for name, cell in zip(columns, cells, strict=True) if cell}
    except ValueError:
        return None
    counted = all(isinstance(values.get(name), int) for name in ("step", "epoch"))
    return values if counted and math.isfinite(values.get("loss", 0)) else None


def _number(text: str) -> float | int:
    is_whole = text.isascii() and text.lstrip("-").isdigit() and len(text) < _MOST_DIGITS
    return int(text) if is_whole else float(text)
