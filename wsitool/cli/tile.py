"""`wsitool tile`: slides in, patch stores out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.columns import columns
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import bucket_option, json_option
from wsitool.cli.pages import leaves_page
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.tiling.options import TileOptions

if TYPE_CHECKING:
    from wsitool.tiling.results import SlideResult, TileResult

__all__ = ["command", "summary"]

_HEAD = ("slide", "status", "kept", "of", "um/px", "size", "seconds")
_EXAMPLES = """
wsitool tile slide.svs --out stores
wsitool tile slides/ --out stores --mpp 0.5 --patch-size 224 --group-regex '^[^_]+'
wsitool tile slides.csv --out stores --level 0 --codec raw --format zarr
wsitool tile s3://bucket/slide.svs --out s3://bucket/stores --format zarr
wsitool tile slides/ --out stores --annotations outlines/ --label-map classes.json
"""


@click.command("tile", cls=Command, examples=_EXAMPLES, help="Cut slides into patch stores.")
@click.argument("slides", nargs=-1, required=True, type=click.Path())
@bucket_option
@declared(TileSpec, QualityThresholds, TileOptions)
@json_option
@leaves_page
def command(slides: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """See the help; SLIDES are files, folders, or a CSV with path and optional mpp, group, label columns."""
    limits = take(QualityThresholds, options).limits
    spec = take(TileSpec, options, limits=limits)
    run = take(TileOptions, options)

    from wsitool.tiling.run import tile_slides

    result = tile_slides(slides, out, spec, **run.to_dict(), reporter=console_reporter(quiet=as_json))
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else summary(result))
    if result.unlisted:
        click.echo(f"Error: slides.csv lacks slides of this run: {result.unlisted}", err=True)
    if result.failed or result.unlisted:
        sys.exit(SOME_FAILED)


def summary(result: TileResult) -> str:
    """The closing table: a line per slide, totals, and what a newcomer should know of the stores."""
    slides = result.slides
    lines = columns([_HEAD, *map(_row, slides)], align="<<>>>>>", drop=(6, 4))
    rule = "-" * max(map(len, lines))
    lines.insert(1, rule)
    stored = [slide for slide in slides if not slide.failed]
    if any(slide.status == "planned" for slide in stored):
        return "\n".join(lines + _plan(result))
    total = sum(slide.bytes for slide in stored)
    lines += [
        rule,
        f"{result.kept:,} patches of {len(stored)} slide(s) in {result.out}, {_size(total)}.",
    ]
    labels: Counter[str] = Counter()
    for slide in stored:
        labels.update(slide.labels)
    if labels:
        lines.append("Labels: " + ", ".join(f"{name} {count:,}" for name, count in labels.items()) + ".")
    raw = sum(slide.raw_bytes for slide in stored)
    if total and any(slide.codec == "jpeg" for slide in stored):
        lines.append(
            f"Patches are stored as JPEG, which is lossy, in {total / raw:.0%} of the raw size; "
            "--codec raw keeps exact pixels."
        )
        lines += _fidelity([slide for slide in stored if slide.psnr is not None])
    lines += [f"Note on {slide.name}: {slide.reason}." for slide in stored if slide.reason]
    if result.failed:
        lines.append(f"{len(result.failed)} slide(s) failed, see {result.out / 'slides.csv'}:")
        lines += [f"  {slide.name}: {slide.reason}" for slide in result.failed]
    return "\n".join(lines)


def _fidelity(done: list[SlideResult]) -> list[str]:
    """What a patch of these slides takes and how near it is to their pixels: a line, or none."""
    if not done:
        return []
    from wsitool.tiling.fidelity import decibels_in_words

    size = sum(slide.bytes for slide in done) / sum(slide.kept for slide in done)
    near = [
        f"{decibels_in_words([slide.psnr or 0.0 for slide in done if slide.subsampling == sampling])} "
        f"({':'.join(sampling)})"
        for sampling in sorted({slide.subsampling for slide in done}, reverse=True)
    ]
    return [f"A patch takes {_size(size)} and is, by a sample, {' or '.join(near)} from its slide's pixels."]


def _plan(result: TileResult) -> list[str]:
    lines = [f"{result.kept:,} patches would be kept; nothing was written."]
    for slide in result.slides:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in slide.counts.items() if count)
        lines.append(f"  {slide.name}: {slide.reason or counts}")
    return lines


def _row(slide: SlideResult) -> tuple[str, ...]:
    if slide.failed:
        return (slide.name, slide.status, *"-----")
    mpp = "?" if slide.mpp_effective is None else f"{slide.mpp_effective:.3f}"
    size = _size(slide.bytes) if slide.bytes else "-"
    kept, candidates = f"{slide.kept:,}", f"{slide.candidates:,}"
    return (slide.name, slide.status, kept, candidates, mpp, size, f"{slide.seconds:.1f}")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
