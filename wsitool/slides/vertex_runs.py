"""Long lists of vertices taken out of XML and JSON before those are parsed, as numpy reads numbers.

A million vertices as elements or lists are a gigabyte and ten seconds; as text they are thirty megabytes.
Only what is written plainly is taken out: everything else is left to the parsers, which say what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["JSON_RUN", "XML_RUN", "Lifted", "lift_json", "lift_xml"]

Floats = NDArray[np.float64]

XML_RUN, JSON_RUN = "vertex-run", "vertex run"
_NUMBER = rb"[-+]?+\d++(?:\.\d++)?+(?:[eE][-+]?+\d++)?+"
# By tag, the attributes in the order programs write them. Possessive throughout: nothing to try again.
_ATTRIBUTES = {b"Vertex": (b"X", b"Y"), b"V": (b"X", b"Y"), b"Coordinate": (b"Order", b"X", b"Y")}
_DEPTH = rb'\s++Z="0(?:\.0++)?+"'  # of a flat slide
_ELEMENTS = b"|".join(
    rb"(?:<%b%b(?:%b)?+\s*+/>\s*+){4,}+"
    % (tag, b"".join(rb'\s++%b="%b"' % (name, _NUMBER) for name in names), _DEPTH)
    for tag, names in _ATTRIBUTES.items()
)
_XML_RUNS = re.compile(_ELEMENTS)
_DEPTHS = re.compile(_DEPTH)
_POINT = rb"\[\s*+%b\s*+,\s*+%b\s*+\]" % (
    _NUMBER.replace(b"[-+]", b"-", 1),
    _NUMBER.replace(b"[-+]", b"-", 1),
)
_JSON_RUNS = re.compile(rb"\[\s*+%b(?:\s*+,\s*+%b){3,}+\s*+\]" % (_POINT, _POINT))
# All that is not of a number, once the words of `_ATTRIBUTES` are gone (their e would be an exponent).
_MARKUP = bytes.maketrans(b'<>="/XYZV\t\r\n', b" " * 12)


@dataclass(frozen=True, kw_only=True)
class Lifted:
    """What is left of a file, and the runs taken out of it: (n, 2) x, y, or (n, 3) order, x, y, by number."""

    rest: bytes
    runs: list[Floats] = field(default_factory=list)


def lift_xml(data: bytes) -> Lifted:
    """Runs of `Vertex`, `V` and `Coordinate` become one element `XML_RUN` with the number `N`."""
    return _lift(data, _XML_RUNS, _of_elements, b'<vertex-run N="%d"/>')


def lift_json(data: bytes) -> Lifted:
    """Lists of x, y become an object with `JSON_RUN` and their number."""
    return _lift(data, _JSON_RUNS, _of_list, b'{"vertex run": %d}')


def _lift(
    data: bytes, pattern: re.Pattern[bytes], numbers: Callable[[bytes], Floats], stand_in: bytes
) -> Lifted:
    runs: list[Floats] = []

    def take(match: re.Match[bytes]) -> bytes:
        runs.append(numbers(match[0]))
        return stand_in % (len(runs) - 1)

    return Lifted(rest=pattern.sub(take, data), runs=runs)


def _of_elements(text: bytes) -> Floats:
    tag = next(tag for tag in _ATTRIBUTES if text.startswith((b"<%b " % tag, b"<%b\n" % tag, b"<%b\t" % tag)))
    # Written alike everywhere, as a rule: replacing is many times faster than searching.
    while b" Z=" in text and (depth := _DEPTHS.search(text)):
        text = text.replace(depth[0], b"")
    for word in (tag, *_ATTRIBUTES[tag]):
        text = text.replace(word, b"") if len(word) > 1 else text
    return np.fromstring(text.translate(_MARKUP), np.float64, sep=" ").reshape(-1, len(_ATTRIBUTES[tag]))


def _of_list(text: bytes) -> Floats:
    return np.fromstring(text.translate(None, b"[] \t\r\n"), np.float64, sep=",").reshape(-1, 2)
