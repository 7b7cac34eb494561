"""`wsitool export`: stores for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from wsitool.base.shards import JobOptions
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import out_option
from wsitool.curate.export.formats import EXPORTS

__all__ = ["command"]


@click.command(
    "export",
    cls=Command,
    examples="""
    wsitool export patches --to imagefolder --out images
    wsitool export patches --to trident --out trident
    wsitool export patches/slide.h5 --to geojson --out qupath
    """,
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    help=f"What will read the export: {', '.join(EXPORTS)}, or one of 'wsitool plugin list'.",
)
@out_option
@click.option("--shard-size", default=10_000, show_default=True, help="Samples in a webdataset shard.")
@click.option("--seed", default=0, show_default=True, help="Draws the order of webdataset's samples.")
@click.option("--overwrite", is_flag=True, help="Replace an export in OUT that was made otherwise.")
@declared(JobOptions)
def command(
    path: Path, to: str, out: Path, shard_size: int, seed: int, overwrite: bool, **options: Any
) -> None:
    """Write stores as other programs read them.

    clam, trident, hs2p, csv and geojson (QuPath) get positions, imagefolder and webdataset the patches
    themselves. PATH is a store, a folder of them, or one that 'wsitool split' wrote. The same command run
    again leaves alone what it finished and does the rest.
    """
    from wsitool.curate.export.run import export_stores

    done = export_stores(
        path,
        out,
        to,
        shard_size=shard_size,
        seed=seed,
        overwrite=overwrite,
        **take(JobOptions, options).to_dict(),
        reporter=console_reporter(),
    )
    click.echo(f"{done.patches:,} patches of {done.stores} stores in {len(done.files):,} files: {done.out}")
    if done.skipped:
        click.echo(f"  {done.skipped} stores or shards were there already, made of the same in the same way")
    if done.left_out:
        click.echo(f"  {done.left_out:,} patches without a label left out: they have no class folder")
    for note in done.notes:
        click.echo(f"  {note}")
    for name, reason in done.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if done.failed:
        sys.exit(SOME_FAILED)
