"""A self-contained HTML page: text, pictures, tables and commands in one file that can be mailed.

Pictures are inlined as data URIs and nothing is fetched, so the page reads the same offline.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from wsitool import __version__
from wsitool.base.files import replace_file

__all__ = ["Page"]

_TEMPLATE = Path(__file__).parent / "page.html.jinja"
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
# A figure, perhaps with a unit or an interval behind it: "1,200", "3.1 s", "88.9 % [85.1, 91.0]".
_NUMBER = re.compile(r"[-+−<]?\s*\.?\d[\d.,]*\s*(%|s|min|MB|GB|/s)?\s*([±\[(].*)?")


@dataclass(frozen=True, kw_only=True)
class _Block:
    kind: str
    text: str = ""
    uri: str = ""
    paragraphs: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numeric: tuple[bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Section:
    heading: str
    anchor: str
    blocks: list[_Block] = field(default_factory=list)


class Page:
    """Builds a page top to bottom; every method but `write` returns the page, so that calls chain.

    `title` is the heading, `intro` the first paragraph(s). All text is escaped; blank lines part paragraphs.
    """

    def __init__(self, title: str, intro: str = "") -> None:
        self._title = title
        self._intro = _paragraphs(intro)
        # A section without heading, for what comes before the first.
        self._sections = [_Section(heading="", anchor="top")]

    def section(self, heading: str, text: str = "") -> Self:
        """Start a section; what follows belongs to it."""
        self._sections.append(_Section(heading=heading, anchor=f"s{len(self._sections)}"))
        return self.text(text) if text else self

    def text(self, text: str) -> Self:
        """Add paragraphs."""
        return self._add(_Block(kind="text", paragraphs=_paragraphs(text)))

    def note(self, text: str) -> Self:
        """Add a boxed remark that the reader should not miss."""
        return self._add(_Block(kind="note", paragraphs=_paragraphs(text)))

    def image(self, image: str | Path | bytes, caption: str = "") -> Self:
        """Add a PNG, JPEG or GIF (a file, or its bytes); ValueError for anything else.

        Images that follow one another share a row where the window is wide enough.
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self._add(_Block(kind="image", uri=_data_uri(data), text=caption))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> Self:
        """Add a table; columns that hold only numbers are set flush right. ValueError for ragged rows."""
        cells = tuple(tuple(map(str, row)) for row in rows)
        if any(len(row) != len(headers) for row in cells):
            raise ValueError(f"Every row must have {len(headers)} cells, as the header has.")
        # Of no rows each column is empty, and not numeric.
        columns = zip(*cells, strict=True) if cells else [()] * len(headers)
        numeric = tuple(bool(column) and all(map(_is_number, column)) for column in columns)
        return self._add(
            _Block(kind="table", headers=tuple(headers), rows=cells, numeric=numeric, text=caption)
        )

    def code(self, command: str) -> Self:
        """Add a command or other preformatted text."""
        return self._add(_Block(kind="code", text=command.strip("\n")))

    def html(self) -> str:
        """The whole page."""
        return _template().render(
            title=self._title, intro=self._intro, sections=self._sections, version=__version__
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, complete or not at all, and return its path."""
        path = Path(path)
        replace_file(path, self.html().encode())
        return path

    def _add(self, block: _Block) -> Self:
        self._sections[-1].blocks.append(block)
        return self


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r"\n\s*\n", text) if part.strip())


def _is_number(cell: str) -> bool:
    # A dash stands for "none" in columns of numbers.
    return cell.strip() in {"", "-", "–"} or _NUMBER.fullmatch(cell.strip()) is not None


def _data_uri(data: bytes) -> str:
    # By content: a file's suffix may lie, and browsers go by the type.
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    raise ValueError("An image of a page must be PNG, JPEG or GIF.")


@cache
def _template() -> Template:
    # Compiled once a process.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        # Names of slides and classes are others' text.
        autoescape=True,
        # A name misspelt in the template is an error and not an empty place.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE.name)
