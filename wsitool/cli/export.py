"""`wsitool export`: stores for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from wsitool.cli.command import Command
from wsitool.cli.console import console_reporter
from wsitool.cli.options import out_option

__all__ = ["command"]

_TARGETS = ("clam", "trident", "geojson", "imagefolder", "webdataset")


@click.command(
    "export",
    cls=Command,
    examples="""
    wsitool export patches --to imagefolder --out images
    wsitool export patches --to trident --out trident
    wsitool export patches/slide.h5 --to geojson --out qupath
    """,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(_TARGETS), required=True, help="What will read the export.")
@out_option
@click.option("--shard-size", default=10_000, show_default=True, help="Samples in a webdataset shard.")
def command(path: Path, to: str, out: Path, shard_size: int) -> None:
    """Write stores as other programs read them.

    clam, trident and geojson (QuPath) get positions, imagefolder and webdataset the patches themselves.
    """
    from wsitool.exporting import export_stores

    done = export_stores(path, out, to, shard_size=shard_size, reporter=console_reporter())  # type: ignore[arg-type]
    click.echo(f"{done.patches:,} patches of {done.stores} stores in {len(done.files):,} files: {done.out}")
