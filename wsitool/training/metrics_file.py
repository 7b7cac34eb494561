"""metrics.csv: one row per optimiser step, written as training goes, cut back exactly on resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsitool.base.files import replace_file
from wsitool.report.curves import Curve, Panel, save_curves

__all__ = ["MetricsFile", "draw_curves", "read_metrics"]

Row = Mapping[str, float | int]
_PANELS = 10


class MetricsFile:
    """Appends rows; the first one decides the columns, later values of other names are left out.

    One process writes. Rows are text of the operating system at once, but not synced: a power cut may cost
    the last ones, which a resumed run computes again.
    """

    def __init__(self, path: Path, *, keep: int = 0, extra: Sequence[str] = ()) -> None:
        """Start the file, or go on after its rows of the first `keep` steps.

        `extra` are columns that not every row has, the first one least of all.
        """
        self._path = path
        # Rows after the checkpoint are computed again, bit for bit, and would be there twice.
        rows = [row for row in read_metrics(path) if row["step"] <= keep] if keep else []
        self._columns: list[str] = []
        self._extra = list(extra)
        # Cut first: with a kill before the rows are back, curves are short, and the run itself is not harmed.
        replace_file(path, b"")
        if rows:
            self.append(rows)

    def append(self, rows: Sequence[Row]) -> None:
        """Write `rows` and hand them to the operating system."""
        if not rows:
            return
        text = io.StringIO(newline="")
        if not self._columns:
            # dict.fromkeys: unique and in order; a set would shuffle the columns.
            self._columns = list(dict.fromkeys([*rows[0], *self._extra]))
            csv.writer(text).writerow(self._columns)
        # A metric that a method gives from the second row on only is left out: the header is written.
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writerows(rows)
        # Closed each time: what is written reaches other readers, such as `tail`, at once.
        with self._path.open("a", newline="") as file:
            file.write(text.getvalue())


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """The rows of a metrics file; absent values and lines that are damaged or cut short are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    # A last line without its end was cut by a kill.
    lines = text.splitlines() if text.endswith(("\n", "\r")) else text.splitlines()[:-1]
    try:
        # A row that is longer than the header has its rest, a list, under "": no number, and so the row is
        # dropped.
        table = list(csv.DictReader(lines, restkey=""))
    except csv.Error:
        return []
    return [values for row in table if (values := _values(row)) is not None]


def _values(row: Mapping[str, str | None]) -> dict[str, float | int] | None:
    """A row's numbers; None where something else is among them, or the step is not."""
    try:
        values = {name: _number(value) for name, value in row.items() if value not in ("", None)}
    except (ValueError, TypeError, AttributeError):
        return None
    return values if "step" in values and "epoch" in values else None


def _number(text: str | None) -> float | int:
    assert text is not None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Loss, the method's own metrics, and the learning rate over the steps."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _COMMON)
    # A metric that never changes says nothing as a curve.
    varying = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    losses = [_curve(rows, name) for name in ("loss", "val_loss")]
    chance = rows[-1].get("chance_loss") if rows else None
    panels = [Panel(title="loss", curves=[curve for curve in losses if curve.y], chance=chance)]
    panels += [Panel(title=name.replace("_", " "), curves=[_curve(rows, name)]) for name in varying[:_PANELS]]
    panels.append(Panel(title="learning rate", curves=[_curve(rows, "lr")]))
    save_curves(path, panels)


_COMMON = ("step", "epoch", "loss", "val_loss", "chance_loss", "lr", "images_per_s", "wait_share")


def _curve(rows: Sequence[Row], name: str) -> Curve:
    points = [(row["step"], row[name]) for row in rows if name in row]
    return Curve(
        label=name,
        x=[x for x, _ in points],
        y=[y for _, y in points],
        # Held-out losses and probes come once an epoch: few points are not smoothed.
        smooth=name != "lr" and len(points) == len(rows),
    )
