"""What a slide or a store may call itself that is no file name, or another's."""

from __future__ import annotations

__all__ = ["NAMES"]

NAMES = (
    "../../evil",
    "/abs/evil",
    "a/../../b",
    "..",
    ".",
    "",
    "CON",
    "x" * 300,
    "가" * 100,
    "\n",
    "name\0x",
    "..\\..\\evil",
    "\udcb0\udca1",
)
