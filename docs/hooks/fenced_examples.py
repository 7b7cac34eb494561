"""Examples in docstrings are code on their pages: what follows >>> is no Markdown."""

from __future__ import annotations

from typing import Any

import griffe

__all__ = ["FencedExamples"]


class FencedExamples(griffe.Extension):
    """Puts each block of lines that begins with >>>, up to a blank line, between fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = _fenced(obj.docstring.value)


def _fenced(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if not inside and line.lstrip().startswith(">>> "):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
