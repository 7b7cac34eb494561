"""`wsitool label`: labels by keyboard, patch by patch, and what can be learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsitool.cli.command import Command
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import declared, take
from wsitool.labelling.options import LabelOptions

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command(
    "label",
    cls=Command,
    examples="""
    wsitool label breast --classes benign,adh,dcis --encoder encoder-breast --out labels.db
    wsitool label breast --test breast-test --order least-sure --encoder encoder-breast --out labels.db
    wsitool label breast --first selection.csv --encoder encoder-breast --out labels.db
    wsitool label breast --out labels.db --export labels.csv --geojson outlines
    wsitool label breast --classes benign,dcis --import outlines.geojson --out labels.db
    """,
)
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Database of the labels."
)
@click.option("--export", type=_PATH, help="Write the labels as a CSV for 'classify --labels', and end.")
@click.option(
    "--geojson", type=_PATH, help="Write them as QuPath opens them, and end; a folder for several slides."
)
@click.option(
    "--import",
    "outlines",
    type=_PATH,
    help="First take outlines in: a file of one slide, or a folder of them.",
)
@declared(LabelOptions)
@click.option(
    "--port", default=0, show_default="a free one", type=click.IntRange(0, 65535), help="Port to listen at."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need --token."
)
@click.option("--token", help="Secret in the page's address.  [default: a random one]")
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def command(
    stores: tuple[Path, ...],
    out: Path,
    export: Path | None,
    geojson: Path | None,
    outlines: Path | None,
    port: int,
    host: str,
    token: str | None,
    browser: bool,
    **options: Any,
) -> None:
    """Label patches in the browser, and watch a classifier learn from it.

    STORES are patch stores or folders. One key is one answer, on disk before the next patch is shown; started
    again with the same --out it goes on. Needs the extra [view], but for --export and --geojson.
    """
    asked = take(LabelOptions, options)
    reporter = torch_reporter()
    from wsitool.labelling.exchange import import_outlines, labels_csv, write_geojson_of
    from wsitool.labelling.opening import opened

    files_only = export is not None or geojson is not None
    if not files_only:
        from wsitool.labelling.serving import check_serving

        check_serving(host, token)
    reading = files_only and outlines is None  # what a page is writing meanwhile can be read
    with opened(stores, out, asked, learning=not files_only, reading=reading, reporter=reporter) as session:
        said = []  # once all is written: a terminal that is gone stops no file
        if outlines is not None:
            count = import_outlines(session, outlines)
            said.append(f"{count:,} patches have their centre in an outline of '{outlines}'.")
        if export is not None:
            from wsitool.base.files import replace_file

            replace_file(export, labels_csv(session))
            said.append(f"{export}: {len(session.labels()):,} labelled patches.")
        if geojson is not None:
            said += [f"{path} is written." for path in write_geojson_of(session, geojson)]
        for line in said:
            click.echo(line)
        if not files_only:
            from wsitool.labelling.serving import serve

            serve(
                session,
                annotator=asked.annotator,
                host=host,
                port=port,
                token=token,
                browser=browser,
                say=click.echo,
            )
