"""Which images of a folder to import, with the label and the group (patient) of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wsitool.base.groups import group_clashes, group_name
from wsitool.base.paths import located, shown, walked
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import Row, read_table
from wsitool.errors import LabelError, UsageError, WsitoolError

__all__ = ["IMAGE_SUFFIXES", "ImageEntry", "ImageTable", "read_image_table"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image: `name` is its path inside the folder with forward slashes; `label` None is unlabelled.

    `problem` says why it cannot be imported, where its row of the label table is already wrong.
    """

    path: Path
    name: str
    label: str | None
    group: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """The images to import, sorted by name, the sorted class names, and what was passed over.

    `unusable` are rows of the label table that name no image or cannot be read, and, without a table, folders
    that cannot be listed and what has an image's name and is no file, each with its problem.
    `ignored` counts files that are no images, `unlisted` images that no row or class folder speaks for.
    `grouped` is false where no groups were given, so that every image counts as one.
    """

    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    ignored: int
    unlisted: int
    grouped: bool
    unusable: tuple[ImageEntry, ...] = ()


def read_image_table(
    folder: Path,
    *,
    labels_csv: Path | None = None,
    group_regex: str | None = None,
    reporter: Reporter = SILENT,
) -> ImageTable:
    """List the images of `folder`, labelled by a table (file, label, maybe group) or by class folders.

    Without a CSV, images in subfolders have the first subfolder's name as label; images directly in `folder`
    are unlabelled and then subfolders are passed over. The group is the CSV's, or what `group_regex` finds in
    the name (its first group, or the whole match), or the name without suffix. Raises LabelError for a
    CSV of which no row fits the folder, UsageError for an empty folder or a regex that does not match.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}' to import: check the spelling.")
    files, unusable = _files_below(folder)
    # By suffix alone: opening hundreds of thousands of files would take minutes.
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images and not unusable:
        positions = any(path.suffix.lower() in (".h5", ".npz") for path in files)
        raise UsageError(
            f"No image in '{folder}': expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}."
            + (" Positions of other programs are cut by 'wsitool tile SLIDES --coords'." if positions else "")
        )
    # The label table itself is no image that was ignored.
    ignored = len(files) - len(images) - (labels_csv is not None and labels_csv.resolve() in _resolved(files))
    grouped = group_regex is not None
    if labels_csv is not None:
        rows = _read_rows(labels_csv, reporter)
        listed = _from_rows(rows, folder, labels_csv, group_regex)
        entries = [entry for entry in listed if not entry.problem]
        unusable = [entry for entry in listed if entry.problem]
        if not entries:
            more = f" (and so for {len(unusable) - 1} more)" if len(unusable) > 1 else ""
            # One sentence for the first, and how many more there are.
            raise LabelError(f"{unusable[0].problem.rstrip('.')}{more}.")
        grouped |= any(row["group"] for row in rows)
    else:
        _tell_of_tables(files, folder, reporter)
        # Images beside folders: then folders are not classes but something else.
        flat = [path for path in images if path.parent == folder]
        entries = [_from_path(path, folder, group_regex) for path in flat or images]
        unusable = [entry for entry in unusable if not flat or entry.path.parent == folder]
    entries.sort(key=lambda entry: entry.name)
    if clashes := group_clashes(entry.group for entry in entries):
        reporter.warn(clashes)
    classes = tuple(sorted({entry.label for entry in entries if entry.label is not None}))
    return ImageTable(
        entries=tuple(entries),
        classes=classes,
        ignored=ignored,
        # Below folders that were passed over, or not named by the table.
        unlisted=len(images) - len(entries),
        grouped=grouped,
        unusable=tuple(unusable),
    )


def _files_below(folder: Path) -> tuple[list[Path], list[ImageEntry]]:
    """The files below `folder`, sorted, save hidden ones; and what there cannot be used, with its problem.

    Nothing is opened: a pipe would never answer.
    """
    files: list[Path] = []
    failed: list[OSError] = []
    problems: list[tuple[Path, str]] = []
    # Pruned in place, which is how a walk is told not to descend.
    for parent, folders, names in walked(folder, onerror=failed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if _is_file(path):
                files.append(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                problems.append((path, "is no file that can be read, as a broken link or a pipe"))
    problems += [(Path(error.filename), f"cannot be listed: {error.strerror}") for error in failed]
    unusable = []
    # Sorted by path, not by kind of problem.
    for path, problem in sorted(problems):
        name = shown(path.relative_to(folder).as_posix())
        unusable.append(
            ImageEntry(path=path, name=name, label=None, group="", problem=f"'{name}' {problem}.")
        )
    return sorted(files), unusable


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A link in a circle, a name too long.
        return False


def _from_path(path: Path, folder: Path, group_regex: str | None) -> ImageEntry:
    name = shown(path.relative_to(folder).as_posix())
    label = None if path.parent == folder else shown(path.relative_to(folder).parts[0])
    return ImageEntry(path=path, name=name, label=label, group=_group(name, group_regex))


def _from_rows(
    rows: Sequence[Row], folder: Path, labels_csv: Path, group_regex: str | None
) -> list[ImageEntry]:
    """One entry for each file that is named; a row as another one is counted once."""
    entries: dict[Path, ImageEntry] = {}
    lines: dict[Path, int] = {}
    for row in rows:
        entry = _from_row(row, folder, labels_csv, group_regex)
        # The first row of a file decides; the same row again is harmless.
        first, line = entries.setdefault(entry.path, entry), lines.setdefault(entry.path, row.line)
        if first != entry and not first.problem:
            problem = (
                f"Lines {line} and {row.line} of '{labels_csv}' name {entry.name} more than once: keep one."
            )
            entries[entry.path] = replace(first, problem=entry.problem or problem)
    return list(entries.values())


def _from_row(row: Row, folder: Path, labels_csv: Path, group_regex: str | None) -> ImageEntry:
    # Not `row["file"]`, which composes letters: a file's name is what it is. A NUL ends it.
    cell = row.cells.get("file", "").split("\0")[0]
    path = located(folder, cell) if cell else folder / f"line {row.line} of {labels_csv.name}"
    # A path out of the folder is named as it was written.
    inside = path.relative_to(folder) if path.is_relative_to(folder) else PurePosixPath(cell)
    name = shown(inside.as_posix())
    problem = row.problem
    if not cell:
        problem = problem or "it names no file"
    elif not os.path.isfile(path):  # noqa: PTH113 - Path's raises for a name that is too long
        problem = problem or (
            f"{name}, not found in '{folder}': correct the column 'file', which is relative to that folder"
        )
    return ImageEntry(
        path=path,
        name=name,
        label=row["label"] or None,
        group=group_name(row["group"]) or ("" if problem else _group(name, group_regex)),
        problem=f"Line {row.line} of '{labels_csv}': {problem}." if problem else "",
    )


def _read_rows(labels_csv: Path, reporter: Reporter) -> tuple[Row, ...]:
    needs, knows = ("file", "label"), ("group",)
    table = read_table(
        labels_csv, needs=needs, knows=knows, what="label table", error=LabelError, reporter=reporter
    )
    if not table.rows:
        raise LabelError(f"{labels_csv} has a header and no rows: add one row for each image.")
    return table.rows


def _tell_of_tables(files: Iterable[Path], folder: Path, reporter: Reporter) -> None:
    """Warn of label tables in `folder`: whoever put one there means it."""
    for path in files:
        if path.parent != folder or path.suffix.lower() not in (".csv", ".tsv"):
            continue
        try:
            read_table(path, needs=("file", "label"))
        except WsitoolError:
            continue
        reporter.warn(f"'{path}' is there and not read: pass --labels '{path}' to take the labels from it.")


def _group(name: str, group_regex: str | None) -> str:
    if group_regex is None:
        # Folders are part of the group: a/1.png and b/1.png are two images.
        return PurePosixPath(name).with_suffix("").as_posix().replace("/", "_")
    try:
        match = re.search(group_regex, name)
    except re.error as error:
        raise UsageError(f"--group-regex '{group_regex}' is no regular expression: {error}.") from error
    text = (match.group(1) if match.re.groups else match.group()) if match is not None else ""
    # An empty match would put all images into one group.
    if not (group := group_name(text or "")):
        raise UsageError(
            f"--group-regex '{group_regex}' finds no group in '{name}': make it match every name."
        )
    return group


def _resolved(files: Iterable[Path]) -> set[Path]:
    return {path.resolve() for path in files}
