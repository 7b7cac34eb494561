"""What the columns of a store must be: shapes at opening, before anything is allocated, values when read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsitool.store.attributes import Summary
from wsitool.store.schema import UNLABELLED, StoreMeta

__all__ = [
    "FIXED",
    "MOST_TEXT",
    "Found",
    "Kind",
    "in_schema",
    "problem_of_columns",
    "problem_of_reasons",
    "problem_of_texts",
    "problem_of_values",
    "score_names",
]

Kind = Literal["int", "float", "text"]

_GROUP = "candidates/"
_MOST_SCORES = 64
_MOST_REASONS = 256  # a reason is a uint8
_FARTHEST = 2**31
_LONGEST_NAME = 4096
MOST_TEXT = 1 << 27
"""Characters of a column of texts, each with the room of the longest, as NumPy keeps them."""


@dataclass(frozen=True)
class Found:
    """A column as its file describes it; nothing of it has been read."""

    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    kind: Kind
    dtype: type[np.generic]
    pairs: bool = False
    needed: bool = False


# Needed ones are those that every reading command asks for; labels, sources and failures come with some
# stores only.
FIXED = {
    "coords": _Form("int", np.int64, pairs=True, needed=True),
    "tissue": _Form("float", np.float32, needed=True),
    "label": _Form("int", np.int16),
    "source": _Form("text", np.str_),
    "failures/coords": _Form("int", np.int64, pairs=True),
    "failures/reason": _Form("text", np.str_),
    "candidates/x": _Form("int", np.int64, needed=True),
    "candidates/y": _Form("int", np.int64, needed=True),
    "candidates/tissue": _Form("float", np.float32, needed=True),
    "candidates/reason": _Form("int", np.uint8, needed=True),
}
"""The columns by schema name; any other in the group `candidates` is a score."""
_SCORE = _Form("float", np.float32)


def score_names(columns: Mapping[str, Found]) -> list[str]:
    """The scores among the columns of a store, without the group's name."""
    return sorted(name.removeprefix(_GROUP) for name in columns if name not in FIXED)


def problem_of_columns(columns: Mapping[str, Found], meta: StoreMeta, summary: Summary) -> str:
    """Which column has not the shape that the store's attributes promise; "" where all have.

    Looks at shapes and kinds only; no column has been read. Also whether the numbers of candidates, patches
    and counts fit each other.
    """
    missing = [name for name, form in FIXED.items() if form.needed and name not in columns]
    if missing:
        return f"it has no column '{missing[0]}'"
    if ("failures/coords" in columns) != ("failures/reason" in columns):
        return "of its failures one column is missing"
    if len(columns) > len(FIXED) + _MOST_SCORES:
        return f"it has {len(columns)} columns"
    # Every group's columns have as many rows as its first; those at the root as many as there are patches.
    rows = {"": summary.patches}
    for name, column in columns.items():
        form = FIXED.get(name, _SCORE)
        if column.kind != form.kind or column.shape[1:] != ((2,) if form.pairs else ()) or not column.shape:
            return f"the column '{name}' is {column.kind} of shape {column.shape}"
        group = name.rpartition("/")[0]
        if column.shape[0] != rows.setdefault(group, column.shape[0]):
            return f"the column '{name}' has {column.shape[0]} rows instead of {rows[group]}"
    return _problem_of_candidates(rows["candidates"], meta, summary)


def _problem_of_candidates(number: int, meta: StoreMeta, summary: Summary) -> str:
    # not at the top: the readers load more than opening a store needs
    from wsitool.base.limits import MAX_CANDIDATES, RAISE_LIMITS, limit_factor

    most: float = MAX_CANDIDATES * limit_factor()
    if number > most:
        raised = f"the environment variable {RAISE_LIMITS} raises that"
        return f"it claims {number} candidates, where at most {most:.0f} are taken to be true ({raised})"
    if meta.level0_width and meta.level0_height:  # not so for images, which have no one grid
        columns, rows = (side / meta.stride_level0 + 2 for side in (meta.level0_width, meta.level0_height))
        most = min(most, 1.5 * columns * rows)  # the strides of the two axes differ a little
    if not summary.patches <= number <= most:
        return f"{number} candidates do not fit {summary.patches} patches of at most {most:.0f} positions"
    counted = sum(summary.counts.values())
    if summary.counts and counted != number:
        return f"its counts add up to {counted} candidates and it has {number}"
    return ""


def problem_of_reasons(reasons: Any) -> str:
    """Why `reasons` cannot be the names of the candidates' reasons; "" where they can."""
    names = reasons if isinstance(reasons, list | tuple) else ()
    right = all(isinstance(name, str) and name and len(name) <= _LONGEST_NAME for name in names)
    if right and 1 <= len(names) == len(set(names)) <= _MOST_REASONS:
        return ""
    return f"the reasons of its candidates are not 1 to {_MOST_REASONS} distinct texts"


def problem_of_values(name: str, values: NDArray[Any], meta: StoreMeta, *, reasons: int) -> str:
    """Which values of a column cannot be; "" where all can. `reasons` is how many the candidates have."""
    rule = _RULES.get(name)
    problem = "" if rule is None or not len(values) else rule(values, meta, reasons)
    return f"the column '{name}' {problem}" if problem else ""


def problem_of_texts(name: str, number: int, longest: int) -> str:
    """Whether a column of `number` texts, the longest of so many bytes, would be too large an array."""
    too_large = number * longest > MOST_TEXT
    return f"the column '{name}' has {number} texts of up to {longest} bytes" if too_large else ""


def in_schema(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """The values of a column in the schema's dtype."""
    form = FIXED.get(name, _SCORE)
    return values if form.kind == "text" else np.ascontiguousarray(values, dtype=form.dtype)


def _outside(values: NDArray[Any], low: float, high: float) -> str:
    least, most = values.min(), values.max()  # NaN is within no bounds: both comparisons with it are false
    inside = low <= least and most <= high
    return "" if inside else f"runs from {least} to {most}, which must be within {low:g} and {high:g}"


def _shares(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    # Slack for rounding; those that `tile` writes are clipped to 1.
    return _outside(values, 0, 1.001)


def _labels(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    return _outside(values, UNLABELLED, len(meta.classes) - 1)


def _x(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    return _outside(values, 0, (meta.level0_width or _FARTHEST) - 1)


def _y(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    return _outside(values, 0, (meta.level0_height or _FARTHEST) - 1)


def _corners(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    return _x(values[:, 0], meta, reasons) or _y(values[:, 1], meta, reasons)


def _reasons(values: NDArray[Any], meta: StoreMeta, reasons: int) -> str:
    return _outside(values, 0, reasons - 1)


_RULES: dict[str, Callable[[NDArray[Any], StoreMeta, int], str]] = {
    "coords": _corners,
    "tissue": _shares,
    "label": _labels,
    "failures/coords": _corners,
    "candidates/x": _x,
    "candidates/y": _y,
    "candidates/tissue": _shares,
    "candidates/reason": _reasons,
}
