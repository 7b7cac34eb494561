"""JSON that wsitool wrote and reads again: checked as a whole before anybody relies on a part of it.

The functions raise ValueError with a reason that fits into a sentence of the caller ("FILE is no plan: ...").
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["MOST_BYTES", "parse_json", "read_json", "read_text", "typed"]

T = TypeVar("T")

MOST_BYTES = 1 << 26
"""No file or text of ours comes near: a longer one is refused unread."""

_DEEPEST = 64
# 64-bit, as numpy and HDF5 have them; larger floats overflow in products.
_LARGEST = 2**63 - 1
_LARGEST_FLOAT = 1e300
_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    NoneType: "null",
    dict: "a table of names and values",
}


def read_text(path: Path) -> str:
    """The UTF-8 text of a regular file of at most `MOST_BYTES`; ValueError for anything else.

    A byte order mark is dropped. The message is a clause ("it is missing"), for the caller's sentence.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError("it is missing" if not path.exists() else "it is no regular file")
        with path.open("rb") as file:
            # One byte more than allowed tells a longer file, whatever its size says; it may be growing.
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    return _decoded(data)


def read_json(path: Path) -> Any:
    """The content of a JSON file, as `parse_json` gives it."""
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of finite numbers, distinct keys and at most 64 levels; ValueError for anything else.

    Texts with a NUL or half a surrogate pair are refused as well, as no terminal, file or store could hold
    them.
    """
    text = _decoded(text) if isinstance(text, bytes) else text
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES >> 20} MB")
    try:
        # Python's json takes NaN, infinities and repeated keys without a word.
        value = json.loads(
            text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_with_distinct_keys
        )
    except RecursionError:
        # How deep `json` itself can go depends on the caller's stack, hence the check below as well.
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    # Only where there can be something to find: most texts are short and plain.
    if "\\u" in text or text.count("[") + text.count("{") > _DEEPEST:
        _check_nesting_and_text(value)
    return value


def _decoded(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES >> 20} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        # `add` returns None: the second clause only remembers.
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{repeated[:60]}' is there twice")
    return values


def _check_nesting_and_text(value: Any) -> None:
    """ValueError for what would end the next function that walks through or prints the value."""
    # A list and no recursion: the depth is what is being checked.
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        if isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            waiting += [(part, depth + 1) for part in item]
        # Python holds halves of surrogate pairs, which neither files nor terminals can.
        elif isinstance(item, str) and ("\0" in item or any("\ud800" <= c <= "\udfff" for c in item)):
            raise ValueError("it holds text that is no text (a NUL or half a character)")


def typed(kind: type[T], value: Any, key: str = "") -> T:
    """`value`, from JSON or TOML, as a `kind`: a dataclass, or any type its fields are annotated with.

    Lists become tuples where those are asked for, whole numbers floats. ValueError names the key that does
    not fit, `key` before it; for a dataclass also keys that it has not, or that are missing.
    """
    checked: T = _typed(kind, value, key)
    return checked


def _typed(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _either(kind, arguments, value, key)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, key)
    # Before other types: a Literal of texts is no str to `get_origin`.
    if origin is Literal and isinstance(value, str | int) and value in arguments:
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return _sequence(kind, value, key)
    if (origin or kind) is dict and isinstance(value, dict):
        of = arguments[1] if arguments else Any
        return {str(name): _typed(of, item, _below(key, name)) for name, item in value.items()}
    # `type(...)`: True is an int to isinstance, and no number to a person.
    if kind is float and type(value) in (int, float) and abs(value) <= _LARGEST_FLOAT:
        return float(value)
    if (
        kind in (str, bool, int, NoneType)
        and type(value) is kind
        and not (kind is int and abs(value) > _LARGEST)
    ):
        return value
    raise ValueError(f"{key} must be {_words(kind)}, got {_shown(value)}")


def _either(kind: Any, options: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and NoneType in options:
        return None
    real = [option for option in options if option is not NoneType]
    if len(real) == 1:
        return _typed(real[0], value, key)  # its own words name the part that is wrong
    for option in real:
        try:
            # The first that fits, in the order written.
            return _typed(option, value, key)
        except ValueError:
            continue
    raise ValueError(f"{key} must be {_words(kind)}, got {_shown(value)}")


def _sequence(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    # tuple[T, ...] and list[T] have one type for all.
    if origin is list or arguments[-1] is Ellipsis:
        of = [arguments[0]] * len(value)
    elif len(arguments) == len(value):
        of = list(arguments)
    else:
        raise ValueError(f"{key} must be {_words(kind)}, got {len(value)} values")
    return origin(
        _typed(one, item, f"{key}[{i}]") for i, (one, item) in enumerate(zip(of, value, strict=True))
    )


def _record(kind: Any, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key or 'it'} must be {_WORDS[dict]}, got {_shown(value)}")
    fields, hints = _form_of(kind)
    unknown = [str(name)[:60] for name in value if name not in fields]
    if unknown:
        raise ValueError(f"{key or 'it'} has the unknown key '{unknown[0]}'")
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in value]
    if missing:
        raise ValueError(f"{key or 'it'} lacks the key '{missing[0]}'")
    return kind(**{name: _typed(hints[name], item, _below(key, name)) for name, item in value.items()})


@cache
def _form_of(kind: Any) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    """The fields of a dataclass and their types, evaluated, as annotations are text: as slow as reading."""
    return {field.name: field for field in dataclasses.fields(kind)}, typing.get_type_hints(kind)


def _below(key: str, name: object) -> str:
    return f"{key}.{name}"[:120] if key else str(name)[:120]


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(option) for option in arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (tuple, list):
        return f"a list, each {_words(arguments[0])}"
    return _WORDS.get(origin or kind, "another value")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    # repr of an int of a million digits takes minutes, or raises.
    text = repr(value) if not isinstance(value, int) or abs(value) <= _LARGEST else "a number of many digits"
    return text if len(text) <= 60 else f"{text[:60]}..."
