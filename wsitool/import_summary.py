"""images.csv: what became of each image of an import, also where an import goes on after another."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from wsitool.report.files import replace_file

__all__ = ["IMAGES_CSV", "ImageResult", "Summary"]

IMAGES_CSV = "images.csv"


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What became of one image: a row of images.csv. `error` is "" where all went well."""

    file: str
    label: str
    group: str
    store: str
    width: int = 0
    height: int = 0
    candidates: int = 0
    kept: int = 0
    error: str = ""


class Summary:
    """The images.csv in `folder`, with the rows that earlier imports wrote there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.earlier: dict[str, list[ImageResult]] = {}
        for row in _read(folder / IMAGES_CSV):
            self.earlier.setdefault(row.group, []).append(row)

    def write(self, done: Mapping[str, Sequence[ImageResult]]) -> None:
        """Replace the file: rows of `done` by group, and the earlier ones of other groups with a store."""
        rows = {
            group: rows
            for group, rows in self.earlier.items()
            if any(row.store and (self._folder / row.store).exists() for row in rows)
        }
        ordered = [row for _, group in sorted((rows | dict(done)).items()) for row in group]
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(ImageResult)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in ordered)
        replace_file(self._folder / IMAGES_CSV, text.getvalue().encode())


def _read(path: Path) -> list[ImageResult]:
    """The rows of an images.csv; none of a file that is not there, or is none of ours."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(row) for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, TypeError, csv.Error):
        return []


def _row(row: Mapping[str, str]) -> ImageResult:
    numbers = ("width", "height", "candidates", "kept")
    return ImageResult(**{name: int(value) if name in numbers else value for name, value in row.items()})  # type: ignore[arg-type]
