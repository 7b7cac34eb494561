"""`wsitool refilter`: other thresholds for stores that are already cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.base.interrupt import progress_on_stop
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, given
from wsitool.cli.options import json_option
from wsitool.errors import StoreError, UsageError, WsitoolError
from wsitool.slides.spec import QualityThresholds, TileSpec

if TYPE_CHECKING:
    from wsitool.curate.refiltering import RefilterResult

__all__ = ["command"]


@click.command(
    "refilter",
    cls=Command,
    examples="""
    wsitool refilter patches/slide.h5 --min-tissue 0.7
    wsitool refilter patches --min-sharpness 100 --dry-run
    wsitool refilter imported --min-tissue 0.7 --out stricter
    wsitool refilter patches/slide.h5 --min-tissue 0.3 --slide slide.svs
    """,
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@declared(TileSpec, unset=True, only=("min_tissue",))
@declared(QualityThresholds, unset=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write to this store or folder and leave PATH as it is."
)
@click.option("--slide", type=click.Path(path_type=Path), help="Slide to read patches from that come back.")
@click.option("--overwrite", is_flag=True, help="Replace another store at --out.")
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing.")
@json_option
def command(
    path: Path,
    out: Path | None,
    slide: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Decide again which patches stay, by stored scores.

    PATH is a store or a folder of them. Limits not named stay as they were. Patches left out earlier come
    back only with --slide. Where they could not come back (imported images, a slide that is gone) none is
    dropped in place: name --out. Slides.csv, images.csv and the preview follow.
    """
    from wsitool.curate.refiltering import refilter
    from wsitool.store.opening import SUFFIXES, find_stores

    changes = given(TileSpec, options) | given(QualityThresholds, options)
    if not changes:
        raise UsageError("Give at least one limit to change, as in --min-tissue 0.7.")
    stores = find_stores(path)
    if not stores:
        raise StoreError(
            f"There is no patch store at '{path}': expected a .h5 or .zarr, or a folder of them."
        )
    if len(stores) > 1 and slide:
        raise UsageError("--slide is for one store: name it instead of its folder.")
    if len(stores) > 1 and out and out.suffix in SUFFIXES:
        raise UsageError(f"--out must be a folder for the {len(stores)} stores, got '{out}'.")
    where: dict[str, Any] = {"out": out, "slide": slide, "overwrite": overwrite, "dry_run": dry_run}
    results: list[RefilterResult] = []
    failed = False
    for store in stores:
        reporter = console_reporter(quiet=as_json)
        try:
            with progress_on_stop(lambda: f"{len(results)} of {len(stores)} stores done; run again to go on"):
                done = refilter(store, changes, reporter=reporter, **where)
        except UsageError:
            raise
        except WsitoolError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
            continue
        results.append(done)
        if not as_json:
            click.echo(_line(done, dry_run=dry_run))
            if done.lost:
                click.echo(f"  needs --out, as {done.lost}")
            if done.preview and not done.redrawn:
                click.echo(
                    f"  {done.preview} still shows the earlier choice, as the slide is not where it was: "
                    "name it with --slide"
                )
    if as_json:
        click.echo(json.dumps([done.to_dict() for done in results], indent=2))
    if failed:
        sys.exit(SOME_FAILED)


def _line(done: RefilterResult, *, dry_run: bool) -> str:
    counts = ", ".join(f"{n:,} {reason}" for reason, n in done.counts.items() if n)
    changes = f"({done.dropped:,} dropped, {done.added:,} added); {counts}"
    if done.added:
        would = "would have" if dry_run else "has"
        return f"{done.store}: {would} {done.after:,} patches instead of {done.before:,} {changes}"
    if done.there:
        return f"{done.store} is this already: {done.after:,} of {done.before:,} patches"
    would = "would keep" if dry_run else "keeps"
    return f"{done.store}: {would} {done.after:,} of {done.before:,} patches {changes}"
