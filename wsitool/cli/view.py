"""`wsitool view`: a page over what wsitool made."""

from __future__ import annotations

from pathlib import Path

import click

from wsitool.cli.command import Command

__all__ = ["command"]


@click.command(
    "view",
    cls=Command,
    examples="""
    wsitool view wsitool-demo
    wsitool view patches slides/ predictions runs --port 8765
    wsitool view patches slides/ --regions outlines
    """,
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--port", default=0, show_default="a free one", type=click.IntRange(0, 65535), help="Port to listen at."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need --token."
)
@click.option("--token", help="Secret in the page's address.  [default: a random one]")
@click.option(
    "--regions",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for regions drawn on slides, <slide>.geojson each; without it none can be drawn.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def command(
    folders: tuple[Path, ...], port: int, host: str, token: str | None, regions: Path | None, browser: bool
) -> None:
    """Look at slides, predictions and mistakes in the browser.

    Folders are searched for what wsitool wrote; slides are shown where their files lie in one of the folders.
    Nothing in them is changed, and nobody else can open the page. Ctrl-C ends it. Needs the extra [view].
    """
    from wsitool.viewer.serving import serve

    serve(folders, regions=regions, host=host, port=port, token=token, browser=browser, say=click.echo)
