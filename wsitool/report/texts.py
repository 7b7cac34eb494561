"""Names that come from elsewhere, as pictures can show them."""

from __future__ import annotations

from wsitool.paths import shown

__all__ = ["literal"]


def literal(text: str) -> str:
    """`text` as matplotlib draws it letter by letter: `$` begins no formula, which could fail to parse."""
    return shown(text).replace("$", r"\$")
