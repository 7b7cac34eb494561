"""`wsitool verify`: re-read stores and compare them with their slides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from wsitool.base.shards import JobOptions
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import json_option, seed_option
from wsitool.slides.reader_registry import READERS

__all__ = ["command"]


@click.command(
    "verify",
    cls=Command,
    examples="""
    wsitool verify patches
    wsitool verify patches/slide.h5 --slide slide.svs
    wsitool verify patches --slide slides/ --samples 500
    wsitool verify patches --slide slides/ --reader openslide
    """,
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--slide", type=click.Path(path_type=Path), help="Slide, or folder of slides, to compare with.")
@click.option("--reader", default="", help="What reads the slide; without it the store's reader.")
@click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="Patches compared per slide."
)
@seed_option
@declared(JobOptions)
@json_option
def command(
    path: Path, slide: Path | None, reader: str, samples: int, seed: int, as_json: bool, **options: Any
) -> None:
    """Re-read stores: counts, hashes, every patch.

    PATH is a store or a folder of them. With --slide, random patches are compared with the slide's pixels.
    Nothing is written: with --shard each job checks its part, and prints and ends by what it found there.
    """
    from wsitool.curate.verifying import verify_stores

    if reader:
        READERS.check(reader)
    reporter = console_reporter(quiet=as_json)
    reports = verify_stores(
        path,
        slide=slide,
        reader=reader,
        samples=samples,
        seed=seed,
        **take(JobOptions, options).to_dict(),
        reporter=reporter,
    )
    if as_json:
        click.echo(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        for report in reports:
            names = ", ".join(check.name for check in report.checks)
            click.echo(
                f"{report.verdict:<7}  {report.path}  {report.patches:,} patches"
                + (f"  ({names})" if report.sound else "")
                if not report.foreign
                else f"{report.verdict}: {report.foreign}"
            )
            for check in report.checks:
                for text in filter(None, (check.problem, check.note)):
                    click.echo(f"         {check.name}: {text}")
    if not all(report.sound for report in reports):
        sys.exit(SOME_FAILED)
