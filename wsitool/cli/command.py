"""How every command ends: its result, or one sentence and the exit code DESIGN.md promises."""

from __future__ import annotations

import math
from typing import Any

import click

from wsitool.cli.config_file import add_config_options, print_config
from wsitool.cli.ending import in_one_sentence

__all__ = ["SOME_FAILED", "Command", "CommandGroup", "command_words", "wants_traceback"]

SOME_FAILED = 1
_DEBUG = "wsitool.debug"
_WORDS = "wsitool.words"
_MOST = 2**31 - 1  # of seeds, sizes and counts; torch, numpy and h5py each fail in another way beyond it


class Command(click.Command):
    """A click command that ends as `wsitool.cli.ending` says, with tracebacks only where --debug is given.

    Pass `examples` (lines of shell) to show them at the end of the help.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = [line.strip() for line in examples.strip().splitlines()]
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=_remember_debug,
                help="Show the traceback of an error.",
            )
        )
        add_config_options(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, but no number may be NaN, infinite, or a whole one beyond what libraries take."""
        ctx.meta[_WORDS] = ("wsitool", str(self.name), *args)  # click empties the list
        rest = super().parse_args(ctx, args)
        for parameter in self.get_params(ctx):
            value = ctx.params.get(parameter.name or "")
            for number in value if isinstance(value, tuple) else (value,):
                _check_number(ctx, parameter, number)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        with in_one_sentence(debug=lambda: wants_traceback(ctx)):
            return None if print_config(ctx) else super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class CommandGroup(Command, click.Group):
    """A command that only holds further ones; they share the manners of `Command`."""


def _check_number(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, got {value}.", ctx, parameter)
    if isinstance(value, int) and abs(value) > _MOST:
        raise click.BadParameter(f"expected a whole number up to {_MOST:,}, got {value}.", ctx, parameter)


def command_words(ctx: click.Context) -> tuple[str, ...]:
    """The command line that is being run, as words."""
    return tuple(map(str, ctx.meta.get(_WORDS, ())))


def wants_traceback(ctx: click.Context) -> bool:
    """Whether the command was given --debug."""
    return bool(ctx.meta.get(_DEBUG))


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value
