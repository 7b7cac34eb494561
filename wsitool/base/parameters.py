"""Parameters declared once: a field of a frozen dataclass is check, documentation, option, plan key and JSON.

A field made by `hparam` carries help, bounds, choices and unit. From it come the command-line option
(`wsitool.cli.declared`), the key of a plan or of `--config FILE.toml`, the JSON form and the error sentence.
"""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from wsitool.errors import UsageError

__all__ = ["HParam", "Params", "as_shares", "hparam", "internal", "same_as", "take"]

_KEY = "wsitool"
_SIMPLE = (int, float, bool, str)
P = TypeVar("P", bound="Params")


@dataclass(frozen=True, kw_only=True)
class HParam:
    """What is known of one parameter: its name, type, default, help text and bounds.

    `many` says that the value is a tuple of `type`, given with commas between or, with `repeat`, by naming
    the option again; `words` is what may stand instead of a number ("auto"). `percent` says that people type
    percentages where the value is shares.
    `default` is `dataclasses.MISSING` where a value must be given.
    """

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""
    many: bool = False
    repeat: bool = False
    percent: bool = False
    words: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """The name as users type it: "--batch-size"."""
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> Any:
        """Return `value` as this parameter's type; UsageError if it is of another type or out of bounds.

        Whole numbers pass as floats and paths as text; True is no number. Lists come back as tuples.
        """
        if value is None and self.optional:
            return None
        if not self.many:
            return self._check_one(value)
        if isinstance(value, int | float) and self.type is not str:
            value = (value,)  # one number is a list of one
        if isinstance(value, str) and self.choices is not None:
            value = tuple(part.strip() for part in value.split(","))  # none of them has a comma
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UsageError(f"{self.option} must be a list of {self.type.__name__}, got {value!r}.")
        return tuple(self._check_one(item) for item in value)

    def _check_one(self, value: Any) -> Any:
        if value in self.words and isinstance(value, str):
            return value
        # TOML and JSON write 1 where 1.0 is meant.
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if self.type is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        # True is an int to isinstance: as a batch size it is a mistake.
        if not isinstance(value, self.type) or (isinstance(value, bool) and self.type is not bool):
            raise UsageError(f"{self.option} must be {self._type_text()}, got {value!r}.")
        if value == "" and self.default != "" and self.choices is None:
            # As a path it would be the folder one stands in.
            raise UsageError(f"{self.option} must not be empty: leave it out instead.")
        if not self._is_in_bounds(value):
            raise UsageError(f"{self.option} must be {self.bounds_text() or 'finite'}, got {value!r}.")
        return value

    def _is_in_bounds(self, value: Any) -> bool:
        return (
            # NaN passes every comparison as false, so it is refused first.
            (not isinstance(value, float) or math.isfinite(value))
            and (self.choices is None or value in self.choices)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def _type_text(self) -> str:
        return " or ".join((self.type.__name__, *self.words))

    def bounds_text(self) -> str:
        """The bounds as a person reads them: "at least 0 and below 1", "one of a, b"; "" without any."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        if self.ge is not None and self.le is not None:
            return f"from {self.ge:g} to {self.le:g}"
        bounds = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


def hparam(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    repeat: bool = False,
    percent: bool = False,
) -> Any:
    """Declare one parameter of a `Params` class: its default, one line of help, its bounds and its unit.

    The field's name (underscores become hyphens) and annotation (int, float, bool, str, a Literal of strings
    or a number beside one, `tuple[...]` of these, or any of them with `| None`) make the command-line option;
    with `percent` it takes percentages of the shares that the field holds. A `default` of
    `dataclasses.MISSING` makes the value required.
    """
    spec = {"help": help, "ge": ge, "gt": gt, "le": le, "lt": lt, "unit": unit, "repeat": repeat}
    metadata = {_KEY: spec | {"choices": choices and tuple(choices), "percent": percent}}
    return dataclasses.field(default=default, metadata=metadata)


def internal(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING) -> Any:
    """Declare a field that the program sets and no user: no option, and checked by nobody."""
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata={_KEY: None})
    return dataclasses.field(default=default, metadata={_KEY: None})


def same_as(kind: type[Params], name: str, *, help: str = "") -> Any:
    """Declare a field like that of another class: the same default, bounds and, unless given, help."""
    # StopIteration where the name is wrong: at import, where a developer sees it.
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    spec = field.metadata[_KEY] | ({"help": help} if help else {})
    return dataclasses.field(default=field.default, metadata={_KEY: spec})


@dataclass(frozen=True, kw_only=True)
class Params:
    """Base of declared parameters; derive a `@dataclass(frozen=True, kw_only=True)` with `hparam` fields.

    Values are checked once, when the object is made; UsageError names the field, its bounds and the value.
    `presets` names sets of values that replace the defaults; "paper" is the defaults themselves.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for spec in self.hparams():
            # Frozen: this is the one place where a value is replaced, by its checked form.
            object.__setattr__(self, spec.name, spec.check(getattr(self, spec.name)))

    @classmethod
    def hparams(cls) -> tuple[HParam, ...]:
        """The declared parameters in order; TypeError if a field was declared without `hparam`."""
        # Evaluated, as `from __future__ import annotations` makes texts of them.
        hints = typing.get_type_hints(cls)
        # None marks internal fields; fields without any mark are kept, for `_describe` to refuse.
        fields = [field for field in dataclasses.fields(cls) if field.metadata.get(_KEY, ()) is not None]
        return tuple(_describe(cls, field, hints[field.name]) for field in fields)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The declared parameters' names in order."""
        return tuple(spec.name for spec in cls.hparams())

    @classmethod
    def from_preset(cls, preset: str, values: Mapping[str, Any]) -> Self:
        """The preset's values, with the given ones on top; every method has "paper" and "histology".

        UsageError for a preset the class does not have, else as `from_dict`.
        """
        presets: dict[str, Mapping[str, Any]] = {"paper": {}, "histology": {}, **cls.presets}
        if preset not in presets:
            raise UsageError(f"There is no preset '{preset}': this method has {', '.join(presets)}.")
        return cls.from_dict({**presets[preset], **values})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, what: str = "this method") -> Self:
        """Make an instance from JSON-like values; UsageError names those that `what` does not have.

        UsageError too where a required value is missing or one is out of bounds.
        """
        names = [spec.name for spec in cls.hparams()]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise UsageError(
                f"Unknown parameter {', '.join(unknown)}: {what} has {', '.join(names) or 'none'}."
            )
        missing = [spec.name for spec in cls.hparams() if spec.default is dataclasses.MISSING]
        if lacking := [name for name in missing if name not in values]:
            raise UsageError(f"{what[0].upper()}{what[1:]} needs {', '.join(lacking)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them.

        Internal fields are among them; tuples stay tuples, which JSON writes as lists.
        """
        return dataclasses.asdict(self)


def take(kind: type[P], options: dict[str, Any], **more: Any) -> P:
    """Make a `kind` of its fields among `options`, which lose them; the program sets `more`.

    UsageError, naming the field, for a value that cannot be.
    """
    names = [spec.name for spec in kind.hparams() if spec.name in options]
    return kind(**{name: options.pop(name) for name in names}, **more)


def as_shares(values: Sequence[float]) -> tuple[float, ...]:
    """Shares in (0, 1] from a list in a file: percentages where any is above 1, never by the single value.

    So 1 among 5 and 25 is one per cent, and 1 alone is everything.
    """
    percent = any(value > 1 for value in values)
    return tuple(value / 100 if percent else value for value in values)


def _describe(cls: type[Params], field: dataclasses.Field[Any], hint: Any) -> HParam:
    if _KEY not in field.metadata:
        raise TypeError(f"{cls.__name__}.{field.name} must be declared with hparam(default, help).")
    members = set(_members(hint))
    optional = type(None) in members
    members.discard(type(None))
    many = False
    # tuple[T, ...] counts as T, of which there may be many.
    for item in [member for member in members if typing.get_origin(member) is tuple]:
        many = True
        members = (members - {item}) | set(_members(typing.get_args(item)[0]))
    words = tuple(sorted(member for member in members if isinstance(member, str)))
    kinds = [member for member in members if not isinstance(member, str)]
    spec = dict(field.metadata[_KEY])
    if not kinds and words:  # a Literal: its values in the order they were written
        kinds, words = [str], ()
        spec["choices"] = spec["choices"] or tuple(_literals(hint))
    if len(kinds) != 1 or kinds[0] not in _SIMPLE:
        raise TypeError(
            f"{cls.__name__}.{field.name} must be int, float, bool, str or a Literal, or a tuple, not {hint}."
        )
    return HParam(
        name=field.name,
        type=kinds[0],
        optional=optional,
        default=field.default,
        many=many,
        words=words,
        **spec,
    )


def _members(hint: Any) -> typing.Iterator[Any]:
    """The types and literal strings a hint allows."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        for member in typing.get_args(hint):
            yield from _members(member)
    elif origin is Literal:
        yield from typing.get_args(hint)
    else:
        yield hint


def _literals(hint: Any) -> typing.Iterator[str]:
    if typing.get_origin(hint) is Literal:
        yield from typing.get_args(hint)
        return
    for member in typing.get_args(hint):
        yield from _literals(member)
