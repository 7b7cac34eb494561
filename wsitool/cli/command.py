"""How every command ends: its result, or one sentence and the exit code DESIGN.md promises."""

from __future__ import annotations

from typing import Any

import click

from wsitool.cli.ending import in_one_sentence

__all__ = ["SOME_FAILED", "Command", "CommandGroup", "wants_traceback"]

SOME_FAILED = 1
_DEBUG = "wsitool.debug"


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

    def invoke(self, ctx: click.Context) -> Any:
        with in_one_sentence(debug=lambda: wants_traceback(ctx)):
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class CommandGroup(Command, click.Group):
    """A command that only holds further ones; they share the manners of `Command`."""


def wants_traceback(ctx: click.Context) -> bool:
    """Whether the command was given --debug."""
    return bool(ctx.meta.get(_DEBUG))


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value
