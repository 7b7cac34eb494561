"""`wsitool report`: the page of a folder."""

from __future__ import annotations

from pathlib import Path

import click

from wsitool.base.sentences import printable
from wsitool.cli.command import Command

__all__ = ["command"]


@click.command(
    "report",
    cls=Command,
    examples="""
    wsitool report patches
    wsitool report run predictions features
    """,
)
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False, exists=True)
)
def command(folders: tuple[Path, ...]) -> None:
    """Write the page of a folder that wsitool wrote, DIR/report.html.

    tile, import, pretrain, embed, classify, predict and experiment leave it by themselves, unless they were
    given --no-report. It is one file without scripts, that fetches nothing and can be mailed.
    """
    from wsitool.pages.write import write_page

    for folder in folders:
        click.echo(printable(str(write_page(folder))))
