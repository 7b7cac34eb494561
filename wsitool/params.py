"""Parameters of a method: one frozen dataclass that is validation, documentation and command line at once."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from wsitool.errors import UsageError

__all__ = ["HParam", "Params", "hparam"]

_KEY = "wsitool"


@dataclass(frozen=True, kw_only=True)
class HParam:
    """What is known of one parameter: its name, type, default, help text and bounds."""

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

    def check(self, value: Any) -> Any:
        """Return `value` as this parameter's type; UsageError if it is of another type or out of bounds."""
        if value is None and self.optional:
            return None
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.type) or (isinstance(value, bool) and self.type is not bool):
            raise UsageError(f"{self.name} must be {self.type.__name__}, got {value!r}.")
        if not self._in_bounds(value):
            raise UsageError(f"{self.name} must be {self.bounds_text()}, got {value!r}.")
        return value

    def _in_bounds(self, value: Any) -> bool:
        return (
            (self.choices is None or value in self.choices)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def bounds_text(self) -> str:
        """The bounds as a person reads them: ">= 0 and < 1", or "one of a, b"; "" where there are none."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


def hparam(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """Declare one parameter of a `Params` class: its default, one line of help, and its bounds.

    The field's name (underscores become hyphens) and annotation (int, float, bool, str, or one of these
    with `| None`) make the command-line option.
    """
    spec = {"help": help, "ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices and tuple(choices)}
    return dataclasses.field(default=default, metadata={_KEY: spec})


@dataclass(frozen=True, kw_only=True)
class Params:
    """Base of a method's parameters; derive a `@dataclass(frozen=True, kw_only=True)` with `hparam` fields.

    Values are checked once, when the object is made; UsageError names the field, its bounds and the value.
    `presets` names sets of values that replace the defaults; "paper" is the defaults themselves.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for spec in self.hparams():
            object.__setattr__(self, spec.name, spec.check(getattr(self, spec.name)))

    @classmethod
    def hparams(cls) -> tuple[HParam, ...]:
        """The declared parameters in order; TypeError if a field was declared without `hparam`."""
        hints = typing.get_type_hints(cls)
        return tuple(_describe(cls, field, hints[field.name]) for field in dataclasses.fields(cls))

    @classmethod
    def from_preset(cls, preset: str, values: Mapping[str, Any]) -> Self:
        """The preset's values, with the given ones on top; every method has "paper" and "histology"."""
        known: dict[str, Mapping[str, Any]] = {"paper": {}, "histology": {}, **cls.presets}
        if preset not in known:
            raise UsageError(f"There is no preset '{preset}': this method has {', '.join(known)}.")
        return cls.from_dict({**known[preset], **values})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make an instance from JSON-like values; UsageError names the parameters that do not exist."""
        known = [spec.name for spec in cls.hparams()]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(
                f"Unknown parameter {', '.join(unknown)}: this method has {', '.join(known) or 'none'}."
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return dataclasses.asdict(self)


def _describe(cls: type[Params], field: dataclasses.Field[Any], hint: Any) -> HParam:
    if _KEY not in field.metadata:
        raise TypeError(f"{cls.__name__}.{field.name} must be declared with hparam(default, help).")
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [member for member in members if member is not type(None)]
    if len(kinds) != 1 or kinds[0] not in (int, float, bool, str):
        raise TypeError(f"{cls.__name__}.{field.name} must be int, float, bool or str, not {hint}.")
    optional = type(None) in members
    return HParam(
        name=field.name, type=kinds[0], optional=optional, default=field.default, **field.metadata[_KEY]
    )
