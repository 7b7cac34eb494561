"""Which slides to tile: files, folders, URLs, or a CSV that also says mpp, group and label of each."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from wsitool.base.groups import group_name
from wsitool.base.paths import AnyPath, as_list, located, path_of
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import Row, decimal, read_table
from wsitool.base.urls import file_name, is_url
from wsitool.errors import UsageError
from wsitool.slides.readers.byte_source import stem
from wsitool.slides.readers.folders import is_dicom, mirax_file, series_files, zarr_metadata
from wsitool.slides.slide_folder import slides_in

__all__ = ["SlideInput", "find_slides", "slide_name"]

_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")  # workbooks are refused by name
_OPTIONAL = ("mpp", "group", "label")


@dataclass(frozen=True, kw_only=True)
class SlideInput:
    """A slide to tile. `mpp` is used where the file states none; `group` is the patient.

    `problem` says why it cannot be tiled, where the row of its table is already wrong or another slide has
    its name: it is then told by its number, too.
    """

    path: str
    mpp: float | None = None
    group: str | None = None
    label: str | None = None
    problem: str = ""
    number: int = 1

    @property
    def name(self) -> str:
        """The name of its store: the file name without its last suffix."""
        return slide_name(self.path) + (f" ({self.number})" if self.number > 1 else "")


def slide_name(path: str | Path) -> str:
    """The file name without its last suffix."""
    return stem(file_name(path))


def find_slides(
    inputs: AnyPath | Iterable[AnyPath], *, group_regex: str | None = None, reporter: Reporter = SILENT
) -> tuple[SlideInput, ...]:
    """Turn what the user named into slides, in order; folders are searched, sorted by name.

    `group_regex` takes the group of a slide that has none from its name: its first group if it has one, else
    the whole match. A named file that does not exist is kept, and so are a row of a table that cannot be used
    and a slide whose store would have the name of an earlier one's: they fail on their own, beside the
    others. Raises UsageError for an empty folder, an unreadable table, and where nothing named is there.
    """
    slides: list[SlideInput] = []
    items = as_list(inputs)
    if items and not any(is_url(item) or os.path.lexists(item) for item in items):
        raise UsageError(f"There is no file or folder '{items[0]}': check the spelling.")
    for item in items:
        # A URL is not looked at here: opening it says whether it is there.
        if is_url(item):
            slides.append(SlideInput(path=str(item)))
        elif mirax := mirax_file(Path(item)):
            slides.append(SlideInput(path=str(mirax)))
        elif os.path.isdir(item) and zarr_metadata(Path(item)) is None:  # noqa: PTH112 - Path's raises for a name that is too long
            slides += [SlideInput(path=str(path)) for path in slides_in(Path(item), reporter)]
        elif Path(item).suffix.lower() in _TABLES:
            slides += _in_table(Path(item), reporter)
        else:
            slides.append(SlideInput(path=str(item)))
    if not slides:
        raise UsageError("Name at least one slide, folder of slides or CSV with a column 'path'.")
    if group_regex is not None:
        slides = [_with_group(slide, group_regex) for slide in slides]
    # Named twice is named once.
    unique = list(dict.fromkeys(_series(slides)))
    # Compared by name: two folders may hold slides of one name, and stores lie in one folder.
    first: dict[str, SlideInput] = {}
    count: Counter[str] = Counter()
    for place, slide in enumerate(unique):
        other = first.setdefault(slide.name, slide)
        count[slide.name] += 1
        if other is not slide:
            problem = (
                f"It would become the store '{slide.name}', as '{other.path}' does: rename one, or tile them "
                "into separate folders."
            )
            unique[place] = replace(slide, problem=slide.problem or problem, number=count[slide.name])
    return tuple(unique)


def _series(slides: list[SlideInput]) -> list[SlideInput]:
    """DICOM files as slides: each series once, as its folder where that holds no other series.

    The first file of a series says its group and label.
    """
    folders = {Path(slide.path).parent for slide in slides if _is_dicom(slide)}
    if not folders:
        return slides
    from wsitool.slides.readers.dicom import dicom_series

    path_of_series: dict[str, str] = {}  # by file, the path that stands for its series
    for folder in folders:
        series = dicom_series(series_files(folder))
        for files in series.values():
            path = str(files[0] if len(series) > 1 else folder)
            path_of_series |= dict.fromkeys(map(str, files), path)
    kept: dict[str, SlideInput] = {}
    for slide in slides:
        path = path_of_series.get(slide.path, slide.path) if _is_dicom(slide) else slide.path
        kept.setdefault(path, replace(slide, path=path))
    return list(kept.values())


def _is_dicom(slide: SlideInput) -> bool:
    return not is_url(slide.path) and is_dicom(Path(slide.path))


def _in_table(table: Path, reporter: Reporter) -> list[SlideInput]:
    if not table.is_file():
        raise UsageError(f"There is no file '{table}': check the spelling.")
    rows = read_table(table, needs=("path",), knows=_OPTIONAL, what="slide list", reporter=reporter).rows
    if not rows:
        raise UsageError(f"'{table}' has a header and no rows: add one row for each slide.")
    entries: dict[str, SlideInput] = {}
    lines: dict[str, int] = {}
    for row in rows:
        slide = _slide(table, row)
        # The first row of a path decides; a second that says the same is harmless.
        first = entries.setdefault(slide.path, slide)
        line = lines.setdefault(slide.path, row.line)
        if first != slide and not first.problem:
            problem = f"Lines {line} and {row.line} of '{table}' say different things of it: keep one."
            entries[slide.path] = replace(first, problem=slide.problem or problem)
    return list(entries.values())


def _slide(table: Path, row: Row) -> SlideInput:
    """The slide of one row, with its problem if it has any."""
    problem = row.problem
    mpp: float | None = None
    if row["mpp"]:
        # Decimal commas are understood, as spreadsheets of many countries write them.
        try:
            mpp = decimal(row["mpp"])
        except ValueError as error:
            problem = problem or f"its mpp {error}"
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        problem = problem or f"its mpp must be above 0, got {row['mpp']}"
        mpp = None
    # Not `row["path"]`, which composes letters: a file's name is what it is. A NUL ends it.
    cell = row.cells.get("path", "").split("\0")[0]
    if not cell:
        path, problem = f"line {row.line} of {table.stem}", problem or "it names no path"
    else:
        # Relative to the table, not to the working folder: the table may be moved with its slides.
        path = path_of(cell) if is_url(cell) else str(located(table.parent, cell))
    return SlideInput(
        path=path,
        mpp=mpp,
        group=group_name(row["group"]) or None,
        label=row["label"] or None,
        problem=f"Line {row.line} of '{table}': {problem}." if problem else "",
    )


def _with_group(slide: SlideInput, pattern: str) -> SlideInput:
    if slide.group is not None or slide.problem:
        return slide
    try:
        # Searched, not matched: the patient's number may stand anywhere in the name.
        match = re.search(pattern, slide.name)
    except re.error as error:
        raise UsageError(f"--group-regex '{pattern}' is not a regular expression: {error}.") from error
    if match is None:
        raise UsageError(f"--group-regex '{pattern}' finds no group in the slide name '{slide.name}'.")
    name = match.group(1) if match.re.groups else match.group(0)
    return replace(slide, group=group_name(name or "") or None)
