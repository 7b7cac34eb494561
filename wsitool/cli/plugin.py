"""`wsitool plugin`: start a method of your own, and check one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.command import SOME_FAILED, Command, CommandGroup
from wsitool.cli.console import console_reporter
from wsitool.cli.options import json_option

if TYPE_CHECKING:
    from wsitool.testing.methods import CheckResult

__all__ = ["command"]


@click.group(
    "plugin",
    cls=CommandGroup,
    examples="""
    wsitool plugin new my-method
    wsitool plugin check wsitool-my-method
    """,
)
def command() -> None:
    """Start and check a plugin with a method of your own."""


@command.command(
    "new",
    short_help="Write a project with a small working method.",
    cls=Command,
    examples="""
    wsitool plugin new my-method
    wsitool plugin new my-method --out projects/my-method
    """,
)
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make.  [default: wsitool-NAME]")
def new(name: str, out: Path | None) -> None:
    """Write a complete, installable project with a small working method NAME."""
    from wsitool.methods.scaffold import new_plugin

    made = new_plugin(name, out)
    click.echo(f"Wrote {made.folder}: {', '.join(made.files)}")
    click.echo(f"Next: pip install -e {made.folder}")
    click.echo(f"      wsitool plugin check {name}")
    click.echo(f"      wsitool pretrain STORES --method {name} --out run")


@command.command(
    "check",
    short_help="Run the checks every method must pass.",
    cls=Command,
    examples="""
    wsitool plugin check simclr
    wsitool plugin check wsitool-my-method
    wsitool plugin check vicreg --set projection_dim=64 --json
    """,
)
@click.argument("target", metavar="NAME|PATH")
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="PARAM=VALUE",
    help="A parameter's value instead of its default.",
)
@json_option
def check(target: str, values: Sequence[str], as_json: bool) -> None:
    """Check an installed method NAME, or those of a project's folder or a .py file PATH.

    Exit code 1 if any check fails.
    """
    from wsitool.testing.methods import check_method
    from wsitool.testing.projects import methods_of

    params = dict(_parse(value) for value in values)
    reporter = console_reporter(quiet=as_json)
    with methods_of(target) as methods:
        results = {name: check_method(cls, params=params, reporter=reporter) for name, cls in methods.items()}
    if as_json:
        rows = {name: [asdict(result) for result in each] for name, each in results.items()}
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for name, each in results.items():
            _show(name, each)
    if not all(result.passed for each in results.values() for result in each):
        sys.exit(SOME_FAILED)


def _parse(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.BadParameter(f"expected PARAM=VALUE, got '{text}'.", param_hint="--set")
    try:
        return name.replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return name.replace("-", "_"), value


def _show(name: str, results: Sequence[CheckResult]) -> None:
    click.echo(f"{name}: {sum(result.passed for result in results)} of {len(results)} checks passed")
    width = max(len(result.name) for result in results)
    for result in results:
        click.echo(f"  {'ok    ' if result.passed else 'FAILED'}  {result.name:<{width}}  {result.message}")
