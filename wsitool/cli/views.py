"""`wsitool views`: what a method really sees of the patches, for a person to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsitool.cli.completing import completer
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import STORES, image_size_option, seed_option
from wsitool.cli.pretrain import METHOD_PREFIX, MethodCommand
from wsitool.stain.options import StainOptions

__all__ = ["command"]


@click.command(
    "views",
    cls=MethodCommand,
    help="Show the views a method makes of patches.\n\nSTORES are patch stores or folders of them.",
    examples="""
    wsitool views kidney --method simclr
    wsitool views kidney --method simclr --preset histology --number 12 --out histology.png
    wsitool views kidney --method simclr --strength 0.5
    wsitool views kidney --method simclr --stain-norm macenko
    """,
)
@click.argument("stores", nargs=-1, required=True, type=STORES)
@click.option(
    "--method",
    required=True,
    metavar="NAME",
    help="SSL method; see 'wsitool methods'.",
    shell_complete=completer("method"),
)
@click.option(
    "--out",
    default=Path("views.png"),
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG to write.",
)
@click.option("--preset", default="paper", show_default=True, help="Method defaults: paper or histology.")
@click.option("--number", default=8, show_default=True, type=click.IntRange(min=1), help="Patches to show.")
@image_size_option("Pixels the patches are resized to.  [default: their own size]")
@seed_option
@declared(StainOptions)
def command(
    stores: tuple[str, ...],
    method: str,
    out: Path,
    preset: str,
    number: int,
    image_size: int | None,
    seed: int,
    **options: Any,
) -> None:
    stain = take(StainOptions, options)

    from wsitool.methods.example_views import example_views
    from wsitool.report.contact_sheet import contact_sheet
    from wsitool.stain.slides import with_stain
    from wsitool.stain.target import choose_norm
    from wsitool.store.collection import open_collection

    params = {
        name.removeprefix(METHOD_PREFIX): value
        for name, value in options.items()
        if value is not None and name.startswith(METHOD_PREFIX)
    }
    norm = choose_norm(stain.stain_norm, stain.stain_target)
    columns = example_views(
        with_stain(open_collection(stores), norm, console_reporter()),
        method=method,
        params=params,
        preset=preset,
        number=number,
        image_size=image_size,
        seed=seed,
    )
    contact_sheet(out, columns)
    rows = len(columns["original"])
    click.echo(f"{out}: {rows} patches and what {method} makes of them ({', '.join(list(columns)[1:])}).")
