"""`--config FILE.toml` and `--print-config`: a command's options from a file, and as a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click

from wsitool.base.alike import others_for
from wsitool.base.json_files import read_text

__all__ = ["add_config_options", "print_config"]

_OWN = ("config", "print_config", "debug", "help", "quiet", "log")
_FEWEST = 10  # a command with fewer options needs no file


def add_config_options(command: click.Command) -> None:
    """Give `command` the two options where it has more than ten of its own."""
    if sum(isinstance(parameter, click.Option) for parameter in command.params) <= _FEWEST:
        return
    command.params += [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path, dir_okay=False),
            is_eager=True,
            expose_value=False,
            callback=_read,
            metavar="FILE.toml",
            help="Take options from this file; those given here win.",
        ),
        click.Option(
            ["--print-config"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Write the options in effect as such a file, and do nothing.",
        ),
    ]


def _read(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(read_text(path))
    except (RecursionError, ValueError) as error:
        raise click.UsageError(f"--config {path} cannot be read as TOML: {error}.", ctx) from None
    parameters = {parameter.name: parameter for parameter in _options(ctx)}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    names = {_key(parameter): name for name, parameter in parameters.items()}
    unknown = sorted(key for key in values if key not in names)
    if unknown:
        others = " or ".join(others_for(names, unknown[0]))
        hint = f"{unknown[0]} is {others}" if others else f"'{ctx.info_name}' has {', '.join(sorted(names))}"
        raise click.UsageError(f"--config {path} has unknown keys {', '.join(unknown)}: {hint}.", ctx)
    ctx.default_map = {**(ctx.default_map or {}), **{names[key]: value for key, value in values.items()}}


def _remember(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta["wsitool.print_config"] = True


def print_config(ctx: click.Context) -> bool:
    """Write the options in effect, where that was asked for; returns whether it was."""
    if not ctx.meta.get("wsitool.print_config"):
        return False
    for parameter in _options(ctx):
        value = ctx.params.get(parameter.name or "")
        if value is not None and value != ():
            click.echo(f"{_key(parameter)} = {_toml(value)}")
    return True


def _options(ctx: click.Context) -> list[click.Option]:
    return [
        parameter
        for parameter in ctx.command.get_params(ctx)
        if isinstance(parameter, click.Option) and parameter.name not in _OWN
    ]


def _key(option: click.Option) -> str:
    """What users call it, also where the program has a longer name for it."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)
