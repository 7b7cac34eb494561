"""`wsitool info`: what a path is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from wsitool.base.sentences import printable
from wsitool.cli.command import Command
from wsitool.cli.options import json_option

__all__ = ["command"]

_SHOWN = 6
_WIDEST = 500


@click.command(
    "info",
    cls=Command,
    examples="""
    wsitool info slide.svs
    wsitool info patches/slide.h5
    wsitool info patches --json
    wsitool info run/encoder.safetensors
    wsitool info https://example.org/slide.svs
    """,
)
@click.argument("path")
@json_option
def command(path: str, as_json: bool) -> None:
    """Show what a slide, store, collection or run is.

    Lists are cut short; --json gives all of them.
    """
    from wsitool.curate.describe import describe

    description = describe(path)
    if as_json:
        click.echo(json.dumps(asdict(description), indent=2, ensure_ascii=False))
        return
    click.echo(f"{description.path}: {description.kind}")
    # A run's card repeats its own facts, as the encoder's file must carry them by itself.
    for name, value in _flat({name: value for name, value in description.facts.items() if name != "card"}):
        click.echo(printable(f"  {name:<26} {value if len(value) <= _WIDEST else value[:_WIDEST] + '...'}"))


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and printable values; nested ones get dotted names, empty ones are left out."""
    rows: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], (), ""):
            text = _listed(value) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{prefix}{name}".replace("_", " "), text))
    return rows


def _listed(values: Sequence[Any]) -> str:
    """All of a short list, the count and the first few of a long one."""
    first = ", ".join(map(str, values[:_SHOWN]))
    return first if len(values) <= _SHOWN else f"{len(values)}: {first}, ..."
