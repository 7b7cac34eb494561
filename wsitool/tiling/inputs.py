"""Which slides to tile: files, folders, URLs, or a CSV that also says mpp, group and label of each."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsitool.errors import UsageError
from wsitool.readers.source import file_name, is_url

__all__ = ["SLIDE_SUFFIXES", "SlideInput", "find_slides", "slide_name"]

_WHOLE_SLIDE = (".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".dcm")
_PICTURE = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SLIDE_SUFFIXES = frozenset((*_WHOLE_SLIDE, *_PICTURE))
_COLUMNS = ("path", "mpp", "group", "label")


@dataclass(frozen=True, kw_only=True)
class SlideInput:
    """A slide to tile. `mpp` is used where the file states none; `group` is the patient."""

    path: str
    mpp: float | None = None
    group: str | None = None
    label: str | None = None

    @property
    def name(self) -> str:
        """The name of its store: the file name without its last suffix."""
        return slide_name(self.path)


def slide_name(path: str | Path) -> str:
    """The file name without its last suffix."""
    name = file_name(path)
    return name.rsplit(".", 1)[0] if "." in name[1:] else name


def find_slides(inputs: Sequence[str | Path], *, group_regex: str | None = None) -> tuple[SlideInput, ...]:
    """Turn what the user named into slides, in order; folders are searched, sorted by name.

    `group_regex` takes the group of a slide that has none from its name: its first group if it has one, else
    the whole match. A named file that does not exist is kept: it fails on its own, beside the others. Raises
    UsageError for an empty folder, a malformed CSV, or two slides whose stores would have the same name.
    """
    found: list[SlideInput] = []
    for item in inputs:
        if is_url(item):
            found.append(SlideInput(path=str(item)))
        elif Path(item).is_dir():
            found += _in_folder(Path(item))
        elif Path(item).suffix.lower() == ".csv":
            found += _in_csv(Path(item))
        else:
            found.append(SlideInput(path=str(item)))
    if not found:
        raise UsageError("Name at least one slide, folder of slides or CSV with a column 'path'.")
    if group_regex is not None:
        found = [_with_group(slide, group_regex) for slide in found]
    unique = list(dict.fromkeys(found))
    first: dict[str, SlideInput] = {}
    for slide in unique:
        other = first.setdefault(slide.name, slide)
        if other is not slide:
            raise UsageError(
                f"'{other.path}' and '{slide.path}' would both become the store '{slide.name}': rename "
                "one, or tile them into separate folders."
            )
    return tuple(unique)


def _in_folder(folder: Path) -> list[SlideInput]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SLIDE_SUFFIXES)
    if not paths:
        raise UsageError(f"There is no slide in the folder '{folder}': name the slide files.")
    return [SlideInput(path=str(path)) for path in paths]


def _in_csv(table: Path) -> list[SlideInput]:
    if not table.is_file():
        raise UsageError(f"There is no file '{table}': check the spelling.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if "path" not in columns:
                raise UsageError(
                    f"'{table}' needs a column 'path' (and may have mpp, group, label), it has: "
                    f"{', '.join(columns) or 'nothing'}."
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"'{table}' is not a CSV in UTF-8: {error}.") from error
    return [_row(table, number, row) for number, row in enumerate(rows, 2) if (row["path"] or "").strip()]


def _row(table: Path, line: int, row: dict[str, str]) -> SlideInput:
    values = {name: (row.get(name) or "").strip() or None for name in _COLUMNS}
    path = values["path"] or ""
    if not is_url(path) and not Path(path).is_absolute():
        path = str(table.parent / path)
    mpp: float | None = None
    if values["mpp"] is not None:
        try:
            mpp = float(values["mpp"])
        except ValueError:
            raise UsageError(
                f"Line {line} of '{table}': mpp must be a number, got '{values['mpp']}'."
            ) from None
    return SlideInput(path=path, mpp=mpp, group=values["group"], label=values["label"])


def _with_group(slide: SlideInput, pattern: str) -> SlideInput:
    if slide.group is not None:
        return slide
    try:
        match = re.search(pattern, slide.name)
    except re.error as error:
        raise UsageError(f"--group-regex '{pattern}' is not a regular expression: {error}.") from error
    if match is None:
        raise UsageError(f"--group-regex '{pattern}' finds no group in the slide name '{slide.name}'.")
    return replace(slide, group=match.group(1) if match.re.groups else match.group(0))
