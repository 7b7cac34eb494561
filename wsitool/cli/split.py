"""`wsitool split`: one folder of labelled stores into training and test patients."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import PERCENT
from wsitool.cli.options import json_option, out_option, seed_option

if TYPE_CHECKING:
    from wsitool.curate.splitting import SplitSide

__all__ = ["command"]


@click.command(
    "split",
    cls=Command,
    examples="""
    wsitool split breast --test 30 --out breast-split
    wsitool classify breast-split/train --test breast-split/test --encoder run --out classifier
    """,
)
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True))
@out_option
@click.option(
    "--test",
    default=0.3,
    type=PERCENT,
    help="Per cent of the patches to test on, of each class.  [default: 30]",
)
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace a split that is there.")
@json_option
def command(
    stores: tuple[str, ...], out: Path, test: float, seed: int, overwrite: bool, as_json: bool
) -> None:
    """Part labelled stores into training and test patients.

    Whole groups (patients) go to OUT/train or OUT/test, and the classes are in proportion. Both folders hold
    links, no pixels are copied; split.csv says what went where.
    """
    from wsitool.curate.splitting import split_stores

    reporter = console_reporter(quiet=as_json)
    result = split_stores(list(stores), out, test=test, seed=seed, overwrite=overwrite, reporter=reporter)
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        if result.status == "skipped":
            click.echo(f"{out} is this split already.")
        for name, side in (("train", result.train), ("test", result.test)):
            click.echo(_line(out / name, side))
    if result.failed:
        sys.exit(SOME_FAILED)


def _line(folder: Path, side: SplitSide) -> str:
    labels = ", ".join(f"{name} {number:,}" for name, number in side.labels.items())
    return (
        f"{folder}: {side.patches:,} patches of {side.groups:,} groups in {side.stores:,} stores ({labels})"
    )
