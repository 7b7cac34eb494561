"""Colours that colour-blind readers tell apart too: Okabe and Ito's palette (2008), as RGB."""

from __future__ import annotations

__all__ = ["GREY", "INK", "OTHERS", "PALETTE", "Rgb", "class_color", "hex_of"]

Rgb = tuple[int, int, int]

INK, GREY = (35, 32, 42), (90, 90, 90)
_BLUE, _VERMILION, _GREEN, _PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
_ORANGE, _SKY, _YELLOW = (230, 159, 0), (86, 180, 233), (240, 228, 66)
PALETTE: tuple[Rgb, ...] = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY, _YELLOW)
OTHERS: tuple[Rgb, ...] = (_VERMILION, _BLUE, _ORANGE, _SKY, _PURPLE, GREY)
"""What stands beside something green on a white ground."""


def class_color(index: int) -> Rgb:
    """The colour of class number `index`; after seven they begin anew."""
    return PALETTE[index % len(PALETTE)]


def hex_of(color: Rgb) -> str:
    """The colour as "#0072b2"."""
    return "#{:02x}{:02x}{:02x}".format(*color)
