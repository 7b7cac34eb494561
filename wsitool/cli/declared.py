"""Options made from declared fields: a command states which dataclass it takes, the dataclass the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from wsitool.base.parameters import HParam, Params, as_shares, take
from wsitool.cli.completing import offered

__all__ = ["COMMA_LIST", "PERCENT", "DeclaredOption", "declared", "given", "take"]


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]
    """A number, or one of a few words such as "auto"."""

    def __init__(self, number: type, words: tuple[str, ...]) -> None:
        self.number, self.words = number, words
        self.name = "|".join(("NUMBER", *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        try:
            return self.number(value)
        except (TypeError, ValueError):
            self.fail(f"expected a number or {' or '.join(self.words)}, got {value!r}", param, ctx)


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Values with commas between them."""

    expected = "numbers such as 1e-5,3e-5,1e-4"

    def __init__(self, item: Any) -> None:
        self.item = item
        self.name = f"{item.name.upper()}[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == ():  # the default of an option that needs none
            return ()
        if isinstance(value, int | float):  # from a file
            value = (value,)
        parts = value.split(",") if isinstance(value, str) else value
        words = [str(part).strip() for part in parts if str(part).strip()]
        if not words:
            self.fail(f"expected at least one value, got {value!r}", param, ctx)
        try:
            return tuple(self.item.convert(word, param, ctx) for word in words)
        except click.BadParameter:
            if self.item in (click.INT, click.FLOAT):  # others say by themselves what there is to choose from
                self.fail(f"expected {self.expected}, got {value!r}", param, ctx)
            raise


class Percentages(CommaList):
    """Shares: typed as percentages with commas between, or a list from a file (see `as_shares`)."""

    expected = "percentages such as 5,25,50,100"

    def __init__(self) -> None:
        super().__init__(click.FLOAT)
        self.name = "PERCENT[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return as_shares(super().convert(value, param, ctx))
        numbers = super().convert(value.replace("%", ""), param, ctx)
        if max(numbers) <= 1 and "%" not in value:
            self.fail(f"{value} may mean shares or percentages: write {value}% for the latter", param, ctx)
        return tuple(number / 100 for number in numbers)


class Percentage(click.ParamType):  # type: ignore[type-arg]
    """A share in (0, 1]: typed as a percentage, 25 or 25%, or as it is from a file.

    What may be meant as a share, 0.25 or 1, is asked back.
    """

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return as_shares([value])[0]
        text = value.strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        if not 0 < number <= 100:
            self.fail(f"expected a percentage above 0 and up to 100, such as 25, got {value!r}", param, ctx)
        if number <= 1 and not text.endswith("%"):
            self.fail(
                f"{text} may mean {100 * number:g} or {number:g} per cent: write {100 * number:g} or "
                f"{number:g}%",
                param,
                ctx,
            )
        return number / 100


COMMA_LIST = CommaList(click.STRING)
PERCENT = Percentage()


class DeclaredOption(click.Option):
    """An option that came from a field."""

    def __init__(self, spec: HParam, *, prefix: str = "", unset: bool = False) -> None:
        flag = spec.option
        # Where None means "as it was" or "as the preset has it", a switch must be able to say no.
        both = spec.type is bool and (spec.default is True or unset)
        declaration = f"{flag}/--no-{flag[2:]}" if both else flag
        required = spec.default is dataclasses.MISSING and not unset
        default = None if unset or required else spec.default
        super().__init__(
            [declaration, f"{prefix}{spec.name}"],
            type=None if spec.type is bool else _click_type(spec),
            is_flag=spec.type is bool or None,
            default=default,
            required=required,
            multiple=spec.repeat,
            help=help_text(spec),
        )
        self.spec = spec

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = offered(self.spec.name, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


def help_text(spec: HParam) -> str:
    """Help, unit, bounds and default of a field on one line."""
    notes = [f"[{spec.unit}]"] if spec.unit else []
    # Of percentages bounds are plain, and theirs are those of shares.
    if spec.bounds_text() and spec.choices is None and not spec.percent:
        notes.append(f"[{spec.bounds_text()}]")
    if not any(spec.default is nothing for nothing in (None, False, dataclasses.MISSING, ())):
        notes.append(f"[default: {_shown(spec)}]")
    return "  ".join([spec.help, *notes])


def _shown(spec: HParam) -> str:
    if spec.type is bool:
        return spec.option[2:] if spec.default else f"no-{spec.option[2:]}"
    if spec.percent:
        shares = spec.default if spec.many else (spec.default,)
        return ",".join(f"{100 * value:g}" for value in shares)
    if spec.many:
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in spec.default)
    return f"{spec.default:g}" if isinstance(spec.default, float) else str(spec.default)


def _click_type(spec: HParam) -> Any:
    if spec.percent:
        return Percentages() if spec.many else PERCENT
    if spec.words:
        one: Any = NumberOrWord(spec.type, spec.words)
    elif spec.choices is not None:
        one = click.Choice([str(choice) for choice in spec.choices])
    else:
        one = click.types.convert_type(spec.type)
    return CommaList(one) if spec.many and not spec.repeat else one


def declared(
    *kinds: type[Params], only: Iterable[str] = (), without: Iterable[str] = (), unset: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for every field of `kinds` (or those in `only`), save those in `without`.

    With `unset` an option that is not given is None, whatever the field's default: for commands that change
    something which has values already.
    """
    included, left_out = set(only), set(without)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        specs = [spec for kind in kinds for spec in kind.hparams() if not included or spec.name in included]
        for spec in reversed([spec for spec in specs if spec.name not in left_out]):
            parameters: list[click.Parameter] = command.__dict__.setdefault("__click_params__", [])
            parameters.append(DeclaredOption(spec, unset=unset))
        return command

    return decorate


def given(kind: type[Params], options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `kind` that a command with `unset` options was given; `options` loses all of them."""
    names = [spec.name for spec in kind.hparams() if spec.name in options]
    values = {name: options.pop(name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, ())}
