"""Tables of text that fit the terminal: the middle of long names gives way, then columns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

__all__ = ["columns", "terminal_width"]

_NAME, _SHORTEST_NAME = 16, 12  # letters of a name: with fewer a column goes first


def terminal_width() -> int | None:
    """Of the terminal that standard output is; None where a file or another program reads it."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def columns(
    rows: Sequence[Sequence[str]], *, align: str, drop: Sequence[int] = (), widest: int | None = None
) -> list[str]:
    """Lines of `rows`, the first column's names first; `align` has < or > for each column.

    Where lines would be wider than the terminal (or `widest`, where there is none) names are cropped, and the
    columns numbered in `drop` left out, one after another, before little is left of the names. Letters of two
    columns count as two.
    """
    from rich.cells import cell_len

    width = terminal_width() or widest
    kept = list(range(len(align)))
    sizes = [max(cell_len(row[at]) for row in rows) for at in kept]

    def beside() -> int:
        return sum(sizes[at] for at in kept[1:]) + 2 * (len(kept) - 1)

    for column in drop:
        if width is None or min(sizes[0], _NAME) + beside() <= width:
            break
        kept.remove(column)
    if width is not None:
        sizes[0] = min(sizes[0], max(_SHORTEST_NAME, width - beside()))
    lines = []
    for row in rows:
        cells = [_cropped(row[0], sizes[0]), *(row[at] for at in kept[1:])]
        padded = [
            f"{cell}{gap}" if align[at] == "<" else f"{gap}{cell}"
            for at, cell in zip(kept, cells, strict=True)
            for gap in [" " * (sizes[at] - cell_len(cell))]
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _cropped(name: str, width: int) -> str:
    from rich.cells import cell_len, chop_cells

    if cell_len(name) <= width:
        return name
    half = (width - 3) // 2
    end = chop_cells(name[::-1], half)[0][::-1]
    return f"{chop_cells(name, width - 3 - half)[0]}...{end}"
