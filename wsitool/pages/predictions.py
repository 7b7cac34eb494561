"""The page of `predict`: slides by verdict, each with its heatmap and the patches that decided."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.pictures import small_jpeg, smaller
from wsitool.base.tables import Row, read_table
from wsitool.errors import WsitoolError
from wsitool.pages.facts import add_settings, read_object
from wsitool.pages.material import Inputs
from wsitool.pages.registry import Folder
from wsitool.predict.attended import AttendedPatch, most_attended
from wsitool.predict.prediction import file_names_of
from wsitool.predict.verdict import as_probability
from wsitool.report.page import Card, Page

__all__ = ["sections"]

_SHOWN = 12  # slides with pictures
_DECIDING = 6  # patches of each
_LISTED, _FAILURES = 200, 50
_SIDE = 620
_LARGEST_TABLE = 30_000_000  # bytes; a slide of a hundred thousand patches has a tenth
_NOT_SHOWN = "The patches that decided are not shown: neither the slide nor its store is where it was."
_NEEDS = (
    "slide",
    "status",
    "group",
    "patches",
    "verdict",
    "reason",
    "most_probable",
    "mean_probability",
    "files",
)


def sections(page: Page, folder: Folder) -> None:
    """From summary.csv, and of at most twelve slides their table, heatmap and six patches."""
    try:
        table = read_table(folder.path / "summary.csv", needs=_NEEDS, exact=True)
    except WsitoolError as error:
        page.note(str(error))
        return
    done = [row for row in table.rows if row["status"] == "done" and not row.problem]
    failed = [row for row in table.rows if row["status"] != "done"]
    verdicts = Counter(row["verdict"] for row in done)
    page.text(f"{len(done):,} {'slide' if len(done) == 1 else 'slides'} judged, {len(failed):,} failed.")
    page.section("Verdicts").table(
        ("verdict", "slides"), [(name, f"{number:,}") for name, number in verdicts.most_common(_LISTED)]
    )
    if failed:
        page.section("What failed").table(
            ("slide", "why"),
            [(row["slide"], row["reason"]) for row in failed[:_FAILURES]],
            f"The first {_FAILURES} of {len(failed):,}." if len(failed) > _FAILURES else "",
        )
    shown = _chosen(done, list(verdicts))
    classes = [
        table.headers[name].removeprefix("mean_p_") for name in table.headers if name.startswith("mean_p_")
    ]
    inputs = Inputs(folder.commands)
    for row in shown:
        _slide(page, folder.path, row, classes, inputs)
    _all(page, done, len(shown))
    _versions(page, folder)


def _chosen(rows: Sequence[Row], verdicts: Sequence[str]) -> list[Row]:
    """Slides of each verdict in turn, the most probable first."""
    by = {
        name: sorted((r for r in rows if r["verdict"] == name), key=lambda r: -_float(r["mean_probability"]))
        for name in verdicts
    }
    turns = [row for place in range(_SHOWN) for name in verdicts for row in by[name][place : place + 1]]
    chosen = turns[:_SHOWN]
    return [row for name in verdicts for row in chosen if row["verdict"] == name]


def _slide(page: Page, folder: Path, row: Row, classes: Sequence[str], inputs: Inputs) -> None:
    means = ", ".join(f"{name} {as_probability(_float(row[f'mean_p_{name}'.lower()]))}" for name in classes)
    page.section(f"{row['slide']}: {row['verdict']}")
    page.text(
        f"{row['patches']} patches; probability {means}." + (f" {row['reason']}." if row["reason"] else "")
    )
    for caption, name in _heatmaps(row, classes):
        picture = smaller(folder / name, side=_SIDE)
        if picture is not None:
            page.image(picture, caption)
    path = folder / f"{row['files']}.csv"
    table = _table(path, classes)
    attended = most_attended(path) if _is_small(path) else []
    if attended:
        _show_attended(page, row, attended, inputs)
        return
    # A table that was edited may name what is no class.
    called_one = row["most_probable"] in classes
    patches = _deciding(table, classes.index(row["most_probable"])) if called_one else []
    if not patches:
        return
    corners = [(one.x, one.y) for one, _ in patches]
    squares = inputs.squares(row["slide"], row["group"], corners, patches[0][0].side)
    if squares is None:
        page.text(_NOT_SHOWN)
        return
    against = any(classes[called] != row["most_probable"] for _, called in patches)
    rest = ", and what is most probably something else" if against else ""
    page.text(f"The patches most probably {row['most_probable']}{rest}:")
    page.cards(
        [
            Card(
                image=small_jpeg(pixels),
                lines=(f"{classes[called]} {as_probability(one.p[called])}", f"{one.x}, {one.y}"),
            )
            for pixels, (one, called) in zip(squares, patches, strict=True)
        ]
    )


def _show_attended(page: Page, row: Row, patches: Sequence[AttendedPatch], inputs: Inputs) -> None:
    """The patches of most attention as pictures, or in a table where there are none of them."""
    corners = [(one.x, one.y) for one in patches if one.x is not None and one.y is not None]
    squares = None
    if corners and (side := patches[0].side) is not None:
        squares = inputs.squares(row["slide"], row["group"], corners, side)
    page.text(f"The {len(patches)} patches of most attention, with what each would be called alone:")
    lines = [
        (
            f"attention {one.relative:.3g} x the mean",
            f"{one.called} {as_probability(one.probability)}",
            one.place,
        )
        for one in patches
    ]
    if squares is None:
        page.table(("attention", "alone", "place"), lines, _NOT_SHOWN)
        return
    page.cards(
        [Card(image=small_jpeg(pixels), lines=told) for pixels, told in zip(squares, lines, strict=True)]
    )


def _heatmaps(row: Row, classes: Sequence[str]) -> list[tuple[str, str]]:
    """(caption, file) of the map of the class the slide leans to, and of the one of called classes."""
    if row["most_probable"] not in classes or Path(row["files"]).name != row["files"]:
        return []
    _, _, called, *of_classes = file_names_of(row["files"], classes)
    leading = of_classes[classes.index(row["most_probable"])]
    return [
        # Only of a classifier of slides; others have no such file.
        ("attention", f"{row['files']}.attention.jpg"),
        (f"probability of {row['most_probable']}", leading),
        ("most probable class of each patch", called),
    ]


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """A row of a slide's table: level-0 corner and side, and `p` (K,)."""

    x: int
    y: int
    side: float
    p: tuple[float, ...]


def _table(path: Path, classes: Sequence[str]) -> list[_Patch]:
    """The patches of a slide; none where the table cannot be read, or is too large for a page."""
    try:
        if not _is_small(path):
            return []
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = next(rows)
            columns = [head.index(f"p_{name}") for name in classes]
            return [
                _Patch(
                    x=int(row[0]),
                    y=int(row[1]),
                    side=float(row[2]),
                    p=tuple(float(row[column]) for column in columns),
                )
                for row in rows
            ]
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return []


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= _LARGEST_TABLE
    except OSError:
        return False


def _deciding(table: Sequence[_Patch], wanted: int) -> list[tuple[_Patch, int]]:
    """Four patches of the class the slide leans to, two that speak against it, and the class of each."""
    table = sorted(table, key=lambda one: -one.p[wanted])
    against = [one for one in table[:-3:-1] if max(one.p) > one.p[wanted]]
    against = against if len(table) > _DECIDING else []
    chosen = [(one, wanted) for one in table[: _DECIDING - len(against)]]
    return chosen + [(one, one.p.index(max(one.p))) for one in against]


def _all(page: Page, rows: Sequence[Row], shown: int) -> None:
    more = f"The first {_LISTED} of {len(rows):,} slides; summary.csv has all." if len(rows) > _LISTED else ""
    page.section("All slides", f"{shown} of {len(rows):,} are shown above." if len(rows) > shown else "")
    page.table(
        ("slide", "verdict", "probability", "patches", "why it is uncertain"),
        [
            (
                r["slide"],
                r["verdict"],
                f"{_float(r['mean_probability']):.3f}",
                r["patches"],
                r["reason"] or "-",
            )
            for r in rows[:_LISTED]
        ],
        more,
    )


def _versions(page: Page, folder: Folder) -> None:
    """What is known of the classifier, where its folder is still where the last command says."""
    run = Path(folder.commands[-1][2]) if folder.commands and len(folder.commands[-1]) > 2 else None
    record = read_object(run / "run.json") if run is not None else {}
    if record:
        page.section("The classifier")
        steps = (record.get("encoder") or {}).get("lineage") or []
        page.text(
            f"Lineage of its encoder: {' -> '.join(str(step.get('name')) for step in steps) or 'not known'}."
        )
        kept = (
            "wsitool_version",
            "classes",
            "judged_on",
            "better_than_guessing",
            "fraction",
            "seed",
            "image_size",
        )
        add_settings(page, {name: record.get(name) for name in kept})


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
