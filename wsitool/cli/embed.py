"""`wsitool embed`: features for slide-level tools, and a map to look at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from wsitool.backbones.options import INIT
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.completing import completer
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import STORES, json_option, out_option
from wsitool.cli.pages import leaves_page
from wsitool.predict.options import EmbedOptions

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
@click.argument("stores", nargs=-1, required=True, type=STORES)
@click.option("--encoder", required=True, help=INIT, shell_complete=completer("encoder"))
@out_option
@declared(EmbedOptions)
@json_option
@leaves_page
def command(stores: tuple[str, ...], encoder: str, out: Path, as_json: bool, **options: Any) -> None:
    settings = take(EmbedOptions, options).to_dict()

    reporter = torch_reporter(quiet=as_json)
    from wsitool.predict.embedding import embed

    result = embed(stores, encoder=encoder, out=out, reporter=reporter, **settings)
    if as_json:
        summary: dict[str, Any] = {
            "files": [str(path) for path in result.files],
            "map": None if result.map is None else str(result.map),
            "patches": result.patches,
            "feature_dim": result.feature_dim,
            "failed": result.failed,
        }
        click.echo(json.dumps(summary))
    elif result.files:
        drawn = "" if result.map is None else f"; {result.method.upper()} map in {result.map.name}"
        click.echo(
            f"{result.out}: {result.patches} patches of {len(result.files)} {result.unit}, "
            f"{result.feature_dim} features each{drawn}."
        )
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)
