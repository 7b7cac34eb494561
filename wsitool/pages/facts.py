"""Facts of a JSON file as a table of two columns, and the account of a lineage, for several pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsitool.base.json_files import read_json
from wsitool.report.page import Page

__all__ = ["add_settings", "as_text", "read_object"]

_LETTERS = 300


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, or the file is damaged."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def add_settings(page: Page, facts: Mapping[str, Any], *, without: frozenset[str] = frozenset()) -> None:
    """A table of what is set in `facts`, nested names with a space between."""
    rows = [row for row in _flat({k: v for k, v in facts.items() if k not in without}) if row[1]]
    if rows:
        page.table(("setting", "value"), rows)


def as_text(value: object) -> str:
    """A value as a cell; "" for nothing, cut where it is long."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {as_text(one)}" for name, one in value.items() if one is not None)
    elif isinstance(value, list | tuple):
        text = ", ".join(map(as_text, value[:12])) + (
            f" and {len(value) - 12} more" if len(value) > 12 else ""
        )
    else:
        text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        label = f"{prefix}{name}".replace("_", " ")
        rows += _flat(value, f"{label} ") if isinstance(value, Mapping) else [(label, as_text(value))]
    return rows
