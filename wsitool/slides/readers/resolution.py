"""Where a slide's resolution comes from: what files state in the units of many writers, or the user."""

from __future__ import annotations

import unicodedata

from wsitool.base.tables import decimal

__all__ = ["length_um", "number", "resolve_mpp", "square_mpp"]

_PLAUSIBLE = (0.02, 50.0)  # um/px; the 72 dpi that image programs write by default would be 353
_UM_PER_PIXEL_AT_1X = 10.0  # the convention of the field: 40x is 0.25 um/px, 20x is 0.5
_MOST_OFF_SQUARE = 0.02

# After NFKC, by which the micro sign U+00B5 is the Greek letter U+03BC.
_UM = {
    **dict.fromkeys(("μm", "um", "μ", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 1e4),
    **dict.fromkeys(("m", "meter", "meters"), 1e6),
    **dict.fromkeys(("inch", "inches", "in", '"'), 25_400.0),
    "Å": 1e-4,
    "pm": 1e-6,
}


def number(text: str | None) -> float | None:
    """A number above 0 with a decimal point or comma, None where `text` is none."""
    try:
        value = decimal(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def length_um(size: float | None, unit: str | None) -> float | None:
    """`size` of `unit` ("um", the micro sign in any writing, "mm", "inch", ...) in um, or None."""
    if size is None:
        return None
    name = unicodedata.normalize("NFKC", (unit or "").strip())
    if "\\u" in name.lower():  # how ImageJ writes letters beyond ASCII
        name = unicodedata.normalize("NFKC", name.lower().replace("\\u00b5", "μ").replace("\\u03bc", "μ"))
    # Short ones as they are: Mm is a million metres. Words in any case.
    factor = _UM.get(name if len(name) <= 2 else name.lower())
    return None if factor is None else size * factor


def square_mpp(x: float | None, y: float | None) -> tuple[float | None, str]:
    """One mpp for pixels of `x` by `y` um, or None and in words what they are where they are not square.

    A side that is not stated is as long as the other. Sides may differ by 2 %; the mean is taken.
    """
    if x is None or y is None:
        return (x if y is None else y), ""
    if abs(x - y) > _MOST_OFF_SQUARE * max(x, y):
        return None, f"{x:.4g} x {y:.4g} um"
    return (x if x == y else (x + y) / 2), ""


def resolve_mpp(
    stated: float | None, objective_power: float | None, default: float | None
) -> tuple[float | None, str | None]:
    """The level-0 mpp and its source: "file", else "given" by the user, else "objective", else None, None.

    >>> wsitool.resolve_mpp(stated=None, objective_power=40, default=None)
    (0.25, 'objective')
    """
    if stated is not None and _PLAUSIBLE[0] <= stated <= _PLAUSIBLE[1]:
        return stated, "file"
    if default is not None:
        return default, "given"
    if objective_power:
        return _UM_PER_PIXEL_AT_1X / objective_power, "objective"
    return None, None
