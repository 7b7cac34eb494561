"""`wsitool embed`: features for slide-level tools, and a map to look at."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.options import image_size_option, json_option, out_option, seed_option

__all__ = ["command"]


@click.command(
    "embed",
    cls=Command,
    help="Write the features of every patch, and a map of them.\n\nSTORES are patch stores or folders.",
    examples="""
    wsitool embed breast --encoder encoder-breast --out features
    wsitool embed breast --encoder encoder-breast --color label --out features
    """,
)
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--encoder", required=True, help="imagenet, random, a run folder, or a weights file.")
@out_option
@click.option("--backbone", help="Network, where the encoder does not say.")
@click.option(
    "--projection", default="pca", show_default=True, help="pca, or umap if umap-learn is installed."
)
@click.option("--color", default="slide", show_default=True, help="Colour the map by slide or label.")
@image_size_option("Pixels patches are resized to.  [default: as in training]")
@click.option("--batch-size", default=64, show_default=True, help="Patches at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@click.option("--overwrite", is_flag=True, help="Replace files in OUT.")
@seed_option
@json_option
def command(stores: tuple[str, ...], as_json: bool, **options: Any) -> None:
    from wsitool.predict.embedding import embed

    result = embed(stores, reporter=console_reporter(quiet=as_json), **options)
    if as_json:
        facts: dict[str, Any] = {
            "files": [str(path) for path in result.files],
            "map": None if result.map is None else str(result.map),
            "patches": result.patches,
            "feature_dim": result.feature_dim,
            "failed": result.failed,
        }
        click.echo(json.dumps(facts))
    elif result.map is not None:
        click.echo(
            f"{result.map.parent}: {result.patches} patches of {len(result.files)} stores, "
            f"{result.feature_dim} features each; {result.method.upper()} map in {result.map.name}."
        )
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)
