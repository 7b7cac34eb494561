"""`wsitool methods`: what `pip install` has made available, broken ones included."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from wsitool.base.plugins import Plugin
from wsitool.cli.columns import columns
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.options import json_option
from wsitool.errors import WsitoolError
from wsitool.methods.registry import installed_methods, load_method

__all__ = ["command"]


@click.command(
    "methods",
    cls=Command,
    help="List the installed self-supervised methods.",
    examples="""
    wsitool methods
    wsitool methods --check-imports
    """,
)
@click.option("--check-imports", is_flag=True, help="Import each one too; exit code 1 if any is broken.")
@json_option
def command(check_imports: bool, as_json: bool) -> None:
    methods = installed_methods()
    states = [_state(method) if check_imports else "" for method in methods]
    if as_json:
        rows = [dataclasses.asdict(method) for method in methods]
        if check_imports:
            rows = [row | {"error": state or None} for row, state in zip(rows, states, strict=True)]
        click.echo(json.dumps(rows, indent=2))
    else:
        lines = [
            (method.name, f"{method.package} {method.version}", method.target, state or "ok")
            for method, state in zip(methods, states, strict=True)
        ]
        kept = lines if check_imports else [(*line[:3], "") for line in lines]
        for line in columns(kept, align="<<<<", drop=(2,)) if kept else []:
            click.echo(line)
    if any(states):
        sys.exit(SOME_FAILED)


def _state(method: Plugin) -> str:
    """Empty where the method loads, else the reason why not."""
    try:
        load_method(method.name)
    except WsitoolError as error:
        return str(error)
    return ""
