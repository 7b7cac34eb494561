"""The table of formats holds: each row names tests that there are, each reader and each suffix has a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from wsitool.slides.reader_registry import READERS

_ROOT = Path(__file__).parent.parent
_PAGE = (_ROOT / "docs" / "formats.md").read_text()
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _PAGE.splitlines()
    if line.startswith("| ") and "`" in line
]


def _tests() -> set[str]:
    """Every test there is, as "file::name"."""
    found = set()
    for path in (_ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.stem}::{node.name}")
    return found


def test_every_cell_names_a_test_that_there_is() -> None:
    tests = _tests()
    assert len(_ROWS) > 15
    for name, *cells in _ROWS:
        assert len(cells) == 3, name
        for cell in cells:
            named = re.findall(r"`(test_\w+::test_\w+)`", cell)
            assert named and set(named) <= tests, f"{name}: {cell}"


def test_every_reader_and_every_suffix_has_a_row() -> None:
    first = " ".join(row[0] for row in _ROWS)
    for reader in READERS.builtin:
        assert f"`{reader.name}`" in _PAGE, reader.name
        for suffix in reader.suffixes:
            assert f"`{suffix}`" in first, suffix
