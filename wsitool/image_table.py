"""Which images of a folder to import, with the label and the group (patient) of each."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsitool.errors import LabelError, UsageError

__all__ = ["IMAGE_SUFFIXES", "ImageEntry", "ImageTable", "read_image_table"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image: `name` is its path inside the folder with forward slashes; `label` None is unlabelled."""

    path: Path
    name: str
    label: str | None
    group: str


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """The images to import, sorted by name, the sorted class names, and what was passed over.

    `ignored` counts files that are no images, `unlisted` images that no row or class folder speaks for.
    `grouped` is false where no groups were given, so that every image counts as one. `unreadable` is (name,
    reason) of folders that cannot be listed, and of what has an image's name and is no file; a label table
    names all that counts, so there are none with one.
    """

    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    ignored: int
    unlisted: int
    grouped: bool
    unreadable: tuple[tuple[str, str], ...] = ()


def read_image_table(
    folder: Path, *, labels_csv: Path | None = None, group_regex: str | None = None
) -> ImageTable:
    """List the images of `folder`, labelled by a CSV (file, label and optionally group) or by class folders.

    Without a CSV, images in subfolders have the first subfolder's name as label; images directly in `folder`
    are unlabelled and then subfolders are passed over. The group is the CSV's, or what `group_regex` finds in
    the name (its first group, or the whole match), or the name without suffix. Raises LabelError for a
    CSV that does not fit the folder, UsageError for an empty folder or a regex that does not match.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}' to import: check the spelling.")
    files, unreadable = _files_below(folder)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images and not unreadable:
        raise UsageError(
            f"No image in '{folder}': expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    ignored = len(files) - len(images) - (labels_csv is not None and labels_csv.resolve() in _resolved(files))
    grouped = group_regex is not None
    if labels_csv is not None:
        rows = _read_rows(labels_csv)
        entries = _from_rows(rows, folder, labels_csv, group_regex)
        grouped |= any(row.get("group") for row in rows)
    else:
        flat = [path for path in images if path.parent == folder]
        entries = [_from_path(path, folder, group_regex) for path in flat or images]
        flat_only = [(name, reason) for name, reason in unreadable if "/" not in name]
        unreadable = flat_only if flat else unreadable
    entries.sort(key=lambda entry: entry.name)
    classes = tuple(sorted({entry.label for entry in entries if entry.label is not None}))
    return ImageTable(
        entries=tuple(entries),
        classes=classes,
        ignored=ignored,
        unlisted=len(images) - len(entries),
        grouped=grouped,
        unreadable=() if labels_csv is not None else tuple(unreadable),
    )


def _files_below(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files below `folder`, sorted, save hidden ones; and what cannot be read there, with the reason.

    Nothing is opened: a pipe would never answer.
    """
    files: list[Path] = []
    failed: list[OSError] = []
    unreadable: list[tuple[str, str]] = []
    for place, folders, names in os.walk(folder, onerror=failed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if _is_file(path):
                files.append(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                name = path.relative_to(folder).as_posix()
                unreadable.append((name, f"'{name}' is no file that can be read, as a broken link or a pipe"))
    for error in failed:
        name = Path(error.filename).relative_to(folder).as_posix()
        unreadable.append((f"{name}/", f"The folder '{name}' cannot be listed: {error.strerror}"))
    return sorted(files), sorted(unreadable)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _from_path(path: Path, folder: Path, group_regex: str | None) -> ImageEntry:
    name = path.relative_to(folder).as_posix()
    label = None if path.parent == folder else path.relative_to(folder).parts[0]
    return ImageEntry(path=path, name=name, label=label, group=_group(name, group_regex))


def _from_rows(
    rows: list[dict[str, str]], folder: Path, labels_csv: Path, group_regex: str | None
) -> list[ImageEntry]:
    names = [row["file"] for row in rows]
    repeated = (
        sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    )
    if repeated:
        raise LabelError(f"{labels_csv} names {_some(repeated)} more than once: keep one row for each file.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LabelError(
            f"{labels_csv} names {_some(missing)}, not found in '{folder}': correct the column 'file', "
            "which is relative to that folder."
        )
    return [
        ImageEntry(
            path=folder / row["file"],
            name=PurePosixPath(row["file"]).as_posix(),
            label=row["label"] or None,
            group=row.get("group") or _group(row["file"], group_regex),
        )
        for row in rows
    ]


def _read_rows(labels_csv: Path) -> list[dict[str, str]]:
    try:
        with labels_csv.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = [(column or "").strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
    except OSError as error:
        raise LabelError(f"The label table '{labels_csv}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"The label table '{labels_csv}' is no CSV in UTF-8: {error}.") from error
    lacking = [column for column in ("file", "label") if column not in columns]
    if lacking:
        raise LabelError(
            f"{labels_csv} needs the columns file and label (and may have group): it lacks "
            f"{' and '.join(lacking)}, and has {', '.join(columns) or 'none'}."
        )
    if not rows:
        raise LabelError(f"{labels_csv} has a header and no rows: add one row for each image.")
    return rows


def _group(name: str, group_regex: str | None) -> str:
    if group_regex is None:
        return PurePosixPath(name).with_suffix("").as_posix().replace("/", "_")
    try:
        match = re.search(group_regex, name)
    except re.error as error:
        raise UsageError(f"--group-regex '{group_regex}' is no regular expression: {error}.") from error
    if match is None or not (match.group(1) if match.re.groups else match.group()):
        raise UsageError(
            f"--group-regex '{group_regex}' finds no group in '{name}': make it match every name."
        )
    return match.group(1) if match.re.groups else match.group()


def _resolved(files: Iterable[Path]) -> set[Path]:
    return {path.resolve() for path in files}


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
