"""images.csv: what became of each image of an import, also where an import goes on after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from wsitool.base.files import replace_file
from wsitool.base.tables import read_table, table_bytes
from wsitool.errors import WsitoolError

__all__ = ["IMAGES_CSV", "ImageResult", "Summary"]

IMAGES_CSV = "images.csv"
_NUMBERS = ("width", "height", "candidates", "kept")


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
    """The images.csv in `folder`, with the rows that earlier imports wrote there.

    Read when it is made; one writer at a time, which the caller's lock sees to.
    """

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
        header = [field.name for field in fields(ImageResult)]
        lines = [header, *(list(asdict(row).values()) for row in ordered)]
        replace_file(self._folder / IMAGES_CSV, table_bytes(lines))


def _read(path: Path) -> list[ImageResult]:
    """The rows of an images.csv; none of a file that is not there, or is none of ours."""
    names = [field.name for field in fields(ImageResult)]
    try:
        rows = read_table(path, needs=names, what="table of images").rows if path.is_file() else ()
        return [_row({name: row[name] for name in names}) for row in rows if not row.problem]
    except (WsitoolError, ValueError):
        return []


def _row(cells: Mapping[str, str]) -> ImageResult:
    return ImageResult(
        # Numbers that a spreadsheet emptied count as 0.
        **{name: int(cell or 0) if name in _NUMBERS else cell for name, cell in cells.items()}  # type: ignore[arg-type]
    )
