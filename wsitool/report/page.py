"""A self-contained HTML page: text, pictures, tables and commands in one file that can be mailed.

Pictures are inlined as data URIs and nothing is fetched, so the page reads the same offline.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from wsitool import __version__
from wsitool.base.files import replace_file
from wsitool.report.charts import Chart

__all__ = ["Card", "Page", "read_commands"]

_TEMPLATE = Path(__file__).parent / "page.html.jinja"
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
_COMMANDS = re.compile(r'<meta name="wsitool-commands" content="([^"]*)">')
_HEAD = 400_000  # letters
# A figure, perhaps with a unit or an interval behind it: "1,200", "3.1 s", "88.9 % [85.1, 91.0]".
_NUMBER = re.compile(r"[-+−<]?\s*\.?\d[\d.,]*\s*(%|s|min|MB|GB|/s)?\s*([±\[(].*)?")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A small picture (PNG, JPEG, GIF or WebP) over some lines of text."""

    image: bytes
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Block:
    kind: str
    text: str = ""
    uri: str = ""
    small: bool = False
    svg: Markup | None = None
    cards: tuple[tuple[str, tuple[str, ...]], ...] = ()
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
    Of pictures it takes `room` bytes, and says of how many more that they are left out. `commands` are kept
    in the file for `read_commands`.
    """

    def __init__(
        self,
        title: str,
        intro: str = "",
        *,
        room: int | None = None,
        commands: Sequence[Sequence[str]] = (),
    ) -> None:
        self._title = title
        self._intro = _paragraphs(intro)
        self._room, self._left_out = room, 0
        self._commands = json.dumps([list(words) for words in commands]) if commands else ""
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

    def image(self, image: str | Path | bytes, caption: str = "", *, small: bool = False) -> Self:
        """Add a PNG, JPEG, GIF or WebP (a file, or its bytes); ValueError for anything else.

        Images that follow one another share a row where the window is wide enough; more of them if `small`.
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        if not self._fits(data):
            return self
        return self._add(_Block(kind="image", uri=_data_uri(data), text=caption, small=small))

    def chart(self, chart: Chart, caption: str = "") -> Self:
        """Add a drawn chart, which shares a row with its neighbours as images do."""
        # Its texts were escaped where it was drawn.
        return self._add(_Block(kind="image", svg=Markup(chart.svg), text=caption))

    def cards(self, cards: Sequence[Card]) -> Self:
        """Add small pictures side by side, each over its lines of text."""
        taken = tuple((_data_uri(card.image), card.lines) for card in cards if self._fits(card.image))
        return self._add(_Block(kind="cards", cards=taken)) if taken else self

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
            title=self._title,
            intro=self._intro,
            sections=self._sections,
            version=__version__,
            left_out=self._left_out,
            commands=self._commands,
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, complete or not at all, and return its path."""
        path = Path(path)
        replace_file(path, self.html().encode())
        return path

    def _fits(self, data: bytes) -> bool:
        """Take the room of a picture; False, and counted, where there is not enough left."""
        if self._room is None:
            return True
        if len(data) > self._room:
            self._left_out += 1
            return False
        self._room -= len(data)
        return True

    def _add(self, block: _Block) -> Self:
        self._sections[-1].blocks.append(block)
        return self


def read_commands(path: Path) -> list[list[str]]:
    """The `commands` that an earlier page at `path` was made with; none where there is no such page."""
    try:
        # Near the beginning: pictures come later.
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
    except OSError:
        return []
    kept = _COMMANDS.search(head)
    try:
        lines = json.loads(html.unescape(kept[1])) if kept else []
    except ValueError:
        return []
    if not isinstance(lines, list):
        return []
    return [list(map(str, words)) for words in lines if isinstance(words, list) and words]


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r"\n\s*\n", text) if part.strip())


def _is_number(cell: str) -> bool:
    # A dash stands for "none" in columns of numbers.
    return cell.strip() in {"", "-", "–"} or _NUMBER.fullmatch(cell.strip()) is not None


def _data_uri(data: bytes) -> str:
    # By content: a file's suffix may lie, and browsers go by the type.
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    raise ValueError("An image of a page must be PNG, JPEG, GIF or WebP.")


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
