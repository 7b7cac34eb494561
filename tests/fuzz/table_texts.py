"""Tables as people save them: encodings, delimiters, quoting, and rows with something wrong in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BAD_CELLS", "Dress", "any_dress", "dressed"]

Rng = np.random.Generator
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp949", "cp1252")

_NO_FILES = (
    "gone.png",
    "gone\x1b[31m.png",
    "a\0b.png",
    "x" * 300,
    "../../../../etc/passwd",
    "gone\nline.png",
)
# Column -> cells no program can use as they are.
BAD_CELLS: Mapping[str, Sequence[str]] = {
    "path": (
        "gone.svs",
        "gone\x1b[31m.svs",
        "a\0b.svs",
        "x" * 300,
        "../../../../etc/passwd",
        "gone\nline.svs",
        "http://[bad",
    ),
    "file": (
        "gone.png",
        "gone\x1b[31m.png",
        "a\0b.png",
        "x" * 300,
        "../../../../etc/passwd",
        "gone\nline.png",
    ),
    "mpp": ("abc", "nan", "-1", "0", "inf", "1e400", "0.5 um", "1.234.567", "--", "½"),
}


@dataclass(frozen=True, kw_only=True)
class Dress:
    """How a table is written down."""

    encoding: str
    delimiter: str
    quoting: int
    newline: str
    header: str  # "plain", "capitals" or "spaced"

    def __str__(self) -> str:
        return f"{self.encoding}, {self.delimiter!r}, {self.newline!r}, header {self.header}"


def any_dress(rng: Rng) -> Dress:
    return Dress(
        encoding=str(rng.choice(_ENCODINGS)),
        delimiter=str(rng.choice([",", ",", ";", "\t"])),
        quoting=int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        newline=str(rng.choice(["\n", "\r\n"])),
        header=str(rng.choice(["plain", "plain", "capitals", "spaced"])),
    )


def dressed(rows: Sequence[Mapping[str, str]], dress: Dress) -> bytes:
    """The table as bytes; letters the encoding lacks are not in it (see `letters`)."""
    columns = list(rows[0])
    names = {"plain": str, "capitals": str.upper, "spaced": lambda name: f" {name} "}[dress.header]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=dress.delimiter, quoting=dress.quoting, lineterminator=dress.newline)
    writer.writerow([names(column) for column in columns])
    writer.writerows([row[column] for column in columns] for row in rows)
    return text.getvalue().encode(dress.encoding, errors="replace")
