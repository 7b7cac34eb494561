"""`wsitool plugin`: what packages bring, a method of your own, and checks of any part."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.columns import columns
from wsitool.cli.command import SOME_FAILED, Command, CommandGroup
from wsitool.cli.console import console_reporter
from wsitool.cli.options import json_option
from wsitool.errors import UsageError

if TYPE_CHECKING:
    from wsitool.testing.results import CheckResult

__all__ = ["command"]


@click.group(
    "plugin",
    cls=CommandGroup,
    examples="""
    wsitool plugin list
    wsitool plugin new my-method
    wsitool plugin check wsitool-my-method
    """,
)
def command() -> None:
    """List, start and check plugins: methods, readers, tissue detectors, exports, backbones, heads."""


_kind_option = click.option(
    "--kind",
    type=click.Choice(["method", "reader", "tissue", "export", "backbone", "head"]),
    help="Only parts of this kind.",
)


@command.command(
    "list",
    short_help="List methods, readers, tissue detectors and exports.",
    cls=Command,
    examples="""
    wsitool plugin list
    wsitool plugin list --kind reader --check-imports
    """,
)
@_kind_option
@click.option("--check-imports", is_flag=True, help="Import each one too; exit code 1 if any is broken.")
@json_option
def list_(kind: str | None, check_imports: bool, as_json: bool) -> None:
    """List every part by kind: those of wsitool, then those that packages bring, broken ones included."""
    from wsitool.testing.kinds import KINDS, listed, load_error

    parts = listed([each for each in KINDS if kind in (None, each.name)])
    states = [load_error(part) if check_imports else "" for part in parts]
    if as_json:
        rows: list[dict[str, Any]] = [{"kind": part.kind, **asdict(part.plugin)} for part in parts]
        if check_imports:
            rows = [row | {"error": state or None} for row, state in zip(rows, states, strict=True)]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        lines = []
        for part, state in zip(parts, states, strict=True):
            plugin, status = part.plugin, (state or "ok") if check_imports else ""
            lines.append(
                (part.kind, plugin.name, f"{plugin.package} {plugin.version}", plugin.target, status)
            )
        for line in columns(lines, align="<<<<<", drop=(3,)) if lines else []:
            click.echo(line)
    if any(states):
        sys.exit(SOME_FAILED)


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
    """Write a complete, installable project with a small working method NAME.

    For a reader, a tissue detector, an export or a head copy the project of its kind in examples/.
    """
    from wsitool.methods.scaffold import new_plugin

    made = new_plugin(name, out)
    click.echo(f"Wrote {made.folder}: {', '.join(made.files)}")
    click.echo(f"Next: pip install -e {made.folder}")
    click.echo(f"      wsitool plugin check {name}")
    click.echo(f"      wsitool pretrain STORES --method {name} --out run")


@command.command(
    "check",
    short_help="Run the checks every part of its kind must pass.",
    cls=Command,
    examples="""
    wsitool plugin check simclr
    wsitool plugin check my-reader --file small.slide
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
    help="A value for a method's parameter instead of its default.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="For readers: an undamaged slide, small; may be given several times.",
)
@_kind_option
@json_option
def check(target: str, values: Sequence[str], files: Sequence[Path], kind: str | None, as_json: bool) -> None:
    """Check what is installed as NAME, or what a project's folder or a .py file PATH defines.

    Methods, readers, tissue detectors, exports, backbones and heads of slides. Exit code 1 if any check
    fails.
    """
    from wsitool.testing.kinds import KINDS
    from wsitool.testing.projects import parts_of

    params = dict(_parse(value) for value in values)
    reporter = console_reporter(quiet=as_json)
    with parts_of(target, [each for each in KINDS if kind in (None, each.name)]) as parts:
        kinds = {each.name for each, _, _ in parts}
        for option, wants, values_given in (("--set", "method", params), ("--file", "reader", files)):
            if values_given and wants not in kinds:
                raise UsageError(f"{option} is for a {wants}, and '{target}' is none.")
        # A name may be there once in each kind.
        several = len({name for _, name, _ in parts}) < len(parts)
        results = {
            f"{each.name} {name}" if several else name: each.check(part, params, files, reporter)
            for each, name, part in parts
        }
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
