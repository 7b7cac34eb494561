"""`wsitool status`: how far the work on a folder is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsitool.base.sentences import printable
from wsitool.cli.command import Command
from wsitool.cli.options import json_option

if TYPE_CHECKING:
    from wsitool.curate.status import Standing

__all__ = ["command"]

_SHOWN = 5


@click.command(
    "status",
    cls=Command,
    examples="""
    wsitool status stores
    wsitool status stores --json
    """,
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Show how far the work on a folder is, on all machines.

    What is done, running, failed and left, by jobs of an array or workers of a cluster. What has ended is no
    longer noted: 'wsitool info FOLDER' says what there is.
    """
    from wsitool.curate.status import standing

    found = standing(folder)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    if not found:
        click.echo(f"Nothing is noted as unfinished in {folder}; 'wsitool info {folder}' says what there is.")
    for each in found:
        for line in _lines(each):
            click.echo(printable(line))


def _lines(found: Standing) -> list[str]:
    lines = [f"{found.folder}: {found.command}, {found.items:,} in all"]
    for name, count, which in (
        ("done", found.done, {}),
        ("running", len(found.running), found.running),
        ("failed", len(found.failed), found.failed),
        ("left", found.left, {}),
    ):
        lines.append(f"  {name:<8} {count:>9,}")
        lines += [f"    {item}: {text}" for item, text in list(which.items())[:_SHOWN]]
        if len(which) > _SHOWN:
            lines.append(f"    and {len(which) - _SHOWN:,} more")
    if not found.running and found.left:
        lines.append("  Nothing is at work: the same command goes on with what is left.")
    elif found.seconds_left is not None:
        lines.append(
            f"  {found.per_hour:,.0f} an hour; about {_duration(found.seconds_left)} to go at that pace"
        )
    return lines


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
