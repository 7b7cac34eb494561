"""`wsitool encoders`: the published encoders that a name suffices for."""

from __future__ import annotations

import dataclasses
import json

import click

from wsitool.backbones.published import ENCODERS, PublishedEncoder, encoders_folder
from wsitool.cli.columns import columns
from wsitool.cli.command import Command
from wsitool.cli.options import json_option

__all__ = ["command"]

_HEAD = ("name", "features", "token", "um/px", "licence", "hub")
_HUB_WIDTH = 26  # so that a line is of 100 letters at most; --json has all
_ALIGN = "<>><<<"


@click.command(
    "encoders",
    cls=Command,
    examples="""
    wsitool encoders
    wsitool embed breast --encoder uni2-h --out features
    """,
)
@json_option
def command(as_json: bool) -> None:
    """List the published encoders of pathology.

    Their names may be given as --encoder and --init. A * marks those whose terms must be accepted at the hub
    before it gives them out. Weights that cannot be downloaded are looked for in one folder per encoder,
    which the last line names.
    """
    installed, problems = ENCODERS.installed()
    entries = (*ENCODERS.builtin, *installed)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
    else:
        rows = [_HEAD, *map(_row, entries)]
        for line in columns(rows, align=_ALIGN, drop=(5, 2, 3)):
            click.echo(line)
        click.echo(f"* terms to accept first; weights by hand: {encoders_folder()}/NAME/")
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)


def _row(entry: PublishedEncoder) -> tuple[str, ...]:
    pool = f" {entry.pool}" if entry.pool else ""
    return (
        f"{entry.name}{'*' if entry.gated else ''}",
        f"{entry.width}{pool}",
        f"{entry.token_px}",
        " ".join(f"{mpp:g}" for mpp in sorted(entry.mpp)) or "-",
        entry.licence,
        entry.hub if len(entry.hub) <= _HUB_WIDTH else f"{entry.hub[: _HUB_WIDTH - 2]}..",
    )
