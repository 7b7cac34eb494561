"""Reading tables that people made or saved with Excel, and writing tables that Excel leaves whole.

Encoding and delimiter are found and, where they are not UTF-8 and a comma, stated. Column names are trimmed
and lower case. Rows are checked one by one: what is wrong with one is its own `problem`.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsitool.base.paths import shown
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.text_files import decode_text, read_bytes
from wsitool.errors import UsageError, WsitoolError

if TYPE_CHECKING:
    import _csv

__all__ = ["Row", "Table", "decimal", "read_table", "table_bytes"]

# Enough of the file to hold any header.
_HEADER_LETTERS = 100_000
_QUOTED_AT_MOST = 60
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# What Excel, browsers and chat programs leave around a cell: no-break and zero-width spaces, direction marks.
_BLANKS = " \t\r\n\f\v\xa0\u200b\u200e\u200f\u202f\u3000\ufeff"
_TEXT_FORMULA = re.compile(r'="((?:[^"]|"")*)"')  # how Excel is told that 001 is text
_RUNS = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet takes for a formula, or did before it was quoted
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_FORMULA = re.compile(rf"{_NUMBER.pattern}|[+-]?(inf|nan)", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: `line` is where it begins, `cells` the text by column, `problem` why it cannot be used."""

    line: int
    cells: Mapping[str, str]
    problem: str = ""

    def __getitem__(self, column: str) -> str:
        """The cell, letters composed as Unicode's NFC has them; "" where it is empty or not there."""
        return unicodedata.normalize("NFC", self.cells.get(column, ""))


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows that are not blank; `headers` gives each column's name as the file writes it."""

    path: Path
    headers: Mapping[str, str]
    rows: tuple[Row, ...]
    encoding: str
    delimiter: str

    @property
    def plain(self) -> bool:
        """Whether it is UTF-8 with commas."""
        return self.encoding == "UTF-8" and self.delimiter == ","


def read_table(
    path: Path,
    *,
    needs: Sequence[str],
    knows: Sequence[str] = (),
    what: str = "table",
    error: type[WsitoolError] = UsageError,
    exact: bool = False,
    reporter: Reporter = SILENT,
) -> Table:
    """Read a table that has the columns `needs` and may have `knows`; raises `error` where it cannot be read.

    Cells are trimmed, unless `exact`; quoting as `table_bytes` does it is undone. A row whose cells do not
    fit the header, or that holds a formula or a NUL in a known column, has a `problem`.
    """
    try:
        text, encoding = decode_text(read_bytes(path, what=what, error=error))
    except ValueError as reason:
        raise error(
            f"The {what} '{path}' cannot be read, as its encoding is unknown: {reason}. Save it as CSV UTF-8."
        ) from None
    delimiter = _delimiter(text, (*needs, *knows))
    # strict: a quotation mark in the middle of a cell is an error and not part of the text.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=not exact
    )
    rows: list[Row] = []
    headers: dict[str, str] | None = None
    columns: list[str] = []
    while (record := _next(reader, path, error)) is not None:
        line, cells, problem = record
        # "sep=;" is a line for Excel and no header.
        if not problem and (_is_blank(cells) or _is_for_excel(line, cells)):
            continue
        if headers is None:
            columns = [cell.strip(_BLANKS).lower() for cell in cells]
            headers = _headers(path, cells, columns, problem, error)
        else:
            rows.append(_row(line, cells, columns, problem, used={*needs, *knows}, exact=exact))
    # A file without any row has no header, and lacks every column.
    headers = headers or {}
    _check_columns(path, headers, needs, knows, what, error)
    table = Table(path=path, headers=headers, rows=tuple(rows), encoding=encoding, delimiter=delimiter)
    if not table.plain:
        reporter.say(_stated(table, what))
    return table


def decimal(text: str) -> float:
    """A number with a decimal point, or a decimal comma as Excel writes it; ValueError for anything else.

    1,234 is refused: it is 1.234 or 1234, depending on who wrote it.
    """
    text = text.strip(_BLANKS)
    if _THOUSANDS.fullmatch(text):
        one, other = text.replace(",", "."), text.replace(",", "")
        raise ValueError(f"'{text}' may be {one} or {other}: use a decimal point")
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{_short(text)}' is no number")
    return float(text)


def table_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows, the header first, as CSV in UTF-8: what a spreadsheet would take for a formula gets a leading '.

    Numbers stay as they are, None is empty, bytes of file names that are no UTF-8 are written as `shown`.
    """
    text = io.StringIO(newline="")
    # "\n" and not the module's "\r\n": line tools and diffs are cleaner, and Excel reads both.
    csv.writer(text, lineterminator="\n").writerows([_safe(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _safe(value: object) -> str:
    text = "" if value is None else shown(str(value))
    # Also what was quoted before is quoted again: reading takes one mark off.
    return f"'{text}" if _RUNS.match(text) and not _NO_FORMULA.fullmatch(text) else text


def _delimiter(text: str, columns: Sequence[str]) -> str:
    """The one that finds most of `columns` in the header, then the one that finds most columns."""
    stated = re.match(r'"?sep=([,;\t|])', text, re.IGNORECASE)  # a line for Excel alone
    if stated:
        return stated[1]

    def score(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(
            io.StringIO(text[:_HEADER_LETTERS], newline=""), delimiter=delimiter, skipinitialspace=True
        )
        try:
            # The first row that says anything; comments are not known here.
            header = next((cells for cells in reader if not _is_blank(cells)), [])
        except csv.Error:
            return 0, 0
        names = {cell.strip(_BLANKS).lower() for cell in header}
        return len(names.intersection(columns)), len(header)

    # Of equal scores the first: commas.
    return max(_DELIMITERS, key=score)


def _next(reader: _csv.Reader, path: Path, error: type[WsitoolError]) -> tuple[int, list[str], str] | None:
    """(first line, cells, problem) of the next row, None at the end."""
    # Where the row begins; it may have several lines.
    line = reader.line_num + 1
    try:
        return line, next(reader), ""
    except StopIteration:
        return None
    except csv.Error as reason:
        # From here to the end everything would be one cell.
        if "unexpected end of data" in str(reason):
            raise error(f"Line {line} of '{path}' opens a quotation mark that is never closed.") from None
        return line, [], f"it is no row of a CSV ({reason})"


def _is_blank(cells: Sequence[str]) -> bool:
    return not any(cell.strip(_BLANKS) for cell in cells)


def _is_for_excel(line: int, cells: list[str]) -> bool:
    return line == 1 and cells[0].lower().startswith("sep=")


def _headers(
    path: Path, cells: list[str], columns: list[str], problem: str, error: type[WsitoolError]
) -> dict[str, str]:
    if problem:
        raise error(f"The header of '{path}' cannot be read: {problem}.")
    twice = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if twice:
        raise error(f"'{path}' has the column '{twice[0]}' more than once: keep one of them.")
    return {name: cell.strip(_BLANKS) for name, cell in zip(columns, cells, strict=True) if name}


def _check_columns(
    path: Path,
    headers: Mapping[str, str],
    needs: Sequence[str],
    knows: Sequence[str],
    what: str,
    error: type[WsitoolError],
) -> None:
    lacking = [name for name in needs if name not in headers]
    if lacking:
        expected = f"a column '{needs[0]}'" if len(needs) == 1 else f"the columns {' and '.join(needs)}"
        more = f" (and may have {', '.join(knows)})" if knows else ""
        has = ", ".join(_short(name) for name in headers.values()) or "none"
        raise error(
            f"The {what} '{path}' needs {expected}{more}: it lacks {' and '.join(lacking)}, and has {has}."
        )


def _row(
    line: int, cells: list[str], columns: list[str], problem: str, *, used: set[str], exact: bool
) -> Row:
    # Empty cells beyond the header are what spreadsheets leave behind.
    surplus = [cell for cell in cells[len(columns) :] if cell.strip(_BLANKS)]
    if surplus:
        counts = f"it has {len(cells)} cells and the header {len(columns)}"
        problem = problem or f"{counts}: put cells that hold the delimiter in quotation marks"
    # A short row is filled up: a missing cell reads as empty.
    named = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
    # Exact tables are files of ours, read back as they were written.
    if not exact:
        faults = [_fault(name, cell) for name, cell in named.items() if name in used]
        problem = problem or next(filter(None, faults), "")
        named = {name: cell.strip(_BLANKS) for name, cell in named.items()}
    return Row(line=line, cells={name: _unquoted(cell) for name, cell in named.items()}, problem=problem)


def _fault(column: str, cell: str) -> str:
    if "\0" in cell:
        return f"its {column} holds a NUL character"
    if cell.strip(_BLANKS).startswith("=") and not _TEXT_FORMULA.fullmatch(cell.strip(_BLANKS)):
        return f"its {column} is a formula, '{_short(cell.strip(_BLANKS))}': save the table with values"
    return ""


def _short(text: str) -> str:
    """As a message can quote it: on one line, and not all of a novel."""
    line = " ".join(shown(text).split())
    return line if len(line) <= _QUOTED_AT_MOST else f"{line[:_QUOTED_AT_MOST]}..."


def _unquoted(cell: str) -> str:
    formula = _TEXT_FORMULA.fullmatch(cell)
    if formula:
        return formula[1].replace('""', '"')
    return cell[1:] if cell.startswith("'") and _RUNS.match(cell) else cell


def _stated(table: Table, what: str) -> str:
    unsure = ": if names look wrong, save it as CSV UTF-8." if table.encoding.startswith("cp") else "."
    manner = f"{table.encoding} with {_DELIMITERS[table.delimiter]}"
    return f"The {what} '{table.path}' is read as {manner}{unsure}"
