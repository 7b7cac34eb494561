"""How every command ends: its result, or one sentence and the exit code DESIGN.md promises."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.base.alike import others_for
from wsitool.base.urls import RemotePath, is_url, refuse_url
from wsitool.cli.config_file import add_config_options, print_config
from wsitool.cli.ending import in_one_sentence
from wsitool.errors import UsageError

if TYPE_CHECKING:
    from wsitool.cli.log_file import LogFile

__all__ = [
    "SOME_FAILED",
    "Command",
    "CommandGroup",
    "command_words",
    "is_quiet",
    "is_verbose",
    "log_of_command",
    "wants_traceback",
]

SOME_FAILED = 1
_DEBUG = "wsitool.debug"
_QUIET = "wsitool.quiet"
_VERBOSE = "wsitool.verbose"
_LOG = "wsitool.log"
_WORDS = "wsitool.words"
_MOST = 2**31 - 1  # of seeds, sizes and counts; torch, numpy and h5py each fail in another way beyond it


class Command(click.Command):
    """A click command that ends as `wsitool.cli.ending` says, with tracebacks only where --debug is given.

    Pass `examples` (lines of shell) to show them at the end of the help.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = [line.strip() for line in examples.strip().splitlines()]
        self.params += [
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_remember_quiet,
                help="Show no progress: only warnings, errors and the result.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_remember_verbose,
                help="Say every step in a line of its own, each slide and each batch, here and in --log.",
            ),
            click.Option(
                ["--log"],
                type=click.Path(path_type=Path, dir_okay=False),
                expose_value=False,
                callback=_remember_log,
                metavar="FILE",
                help="Also add what is said to this file, with the time.",
            ),
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=_remember_debug,
                help="Show the traceback of an error.",
            ),
        ]
        add_config_options(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, but no number may be NaN, infinite, or a whole one beyond what libraries take."""
        given = tuple(args)  # click empties the list
        ctx.meta[_WORDS] = ("wsitool", str(self.name), *given)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = (name for parameter in self.get_params(ctx) for name in parameter.opts)
            others = others_for(known, error.option_name)
            if not others:
                raise
            names = " or ".join(f"'{name}'" for name in others)
            told = f"No such option '{error.option_name}': here it is {names}."
            raise click.UsageError(told, ctx) from None
        except click.BadParameter as error:
            for url in filter(is_url, given):
                if f"'{url}' does not exist" in error.message:  # nobody has looked
                    _check_path(ctx, error.param, Path(url))
            raise
        for parameter in self.get_params(ctx):
            value = ctx.params.get(parameter.name or "")
            for one in value if isinstance(value, tuple) else (value,):
                _check_number(ctx, parameter, one)
                _check_path(ctx, parameter, one)
        if ctx.meta.get(_QUIET) and ctx.meta.get(_VERBOSE):
            raise click.UsageError("--quiet and --verbose say the opposite: leave one of them out.", ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        with in_one_sentence(debug=lambda: wants_traceback(ctx)), _logged(ctx):
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


def _check_path(ctx: click.Context, parameter: click.Parameter | None, value: Any) -> None:
    if isinstance(value, Path) and not isinstance(value, RemotePath):
        try:
            refuse_url(value)
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, parameter) from None


def command_words(ctx: click.Context) -> tuple[str, ...]:
    """The command line that is being run, as words."""
    return tuple(map(str, ctx.meta.get(_WORDS, ())))


def wants_traceback(ctx: click.Context) -> bool:
    """Whether the command was given --debug."""
    return bool(ctx.meta.get(_DEBUG))


def is_quiet() -> bool:
    """Whether the command that is running was given --quiet."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_QUIET))


def is_verbose() -> bool:
    """Whether the command that is running was given --verbose."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_VERBOSE))


def log_of_command() -> LogFile | None:
    """The --log of the command that is running."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_LOG)


@contextmanager
def _logged(ctx: click.Context) -> Iterator[None]:
    """Begin and end of the command in its log."""
    log: LogFile | None = ctx.meta.get(_LOG)
    if log is None or isinstance(ctx.command, click.Group):  # a group's command writes its own
        yield
        return
    log.write("begins", shlex.join(command_words(ctx)))
    try:
        yield
    except SystemExit as end:
        log.write("ends", f"exit code {end.code}")
        raise
    except KeyboardInterrupt as stop:
        log.write("ends", str(stop) or "interrupted")
        raise
    except Exception as error:
        from wsitool.base.sentences import one_sentence

        log.write("error", one_sentence(error))
        raise
    log.write("ends", "done")


def _remember_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_QUIET] = value or ctx.meta.get(_QUIET, False)


def _remember_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = value or ctx.meta.get(_VERBOSE, False)


def _remember_log(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    from wsitool.cli.log_file import LogFile

    try:
        ctx.meta[_LOG] = LogFile(path)
    except OSError as error:
        raise click.BadParameter(
            f"'{path}' cannot be written ({error.strerror}): name a file in a folder that is there.",
            ctx,
            parameter,
        ) from None


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value
